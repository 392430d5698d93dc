"""Operators' verdicts from the service's log and from a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaldefect.deploy.feedback import read_feedback
from metaldefect.errors import UserError


def test_verdicts_of_a_table_replace_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "feedback.jsonl").write_text(
        '{"time": "t", "id": "a", "defective": true, "note": ""}\n'
        '{"time": "t", "id": "b", "defective": true, "note": "x"}\n'
    )
    table = tmp_path / "shift.csv"
    table.write_text("\ufeffID;Verdict;Note\na;good;seen twice\nc;NOK;\n", encoding="utf-8")
    found = read_feedback(tmp_path, table)
    assert found[["id", "defective", "note"]].values.tolist() == [
        ["b", True, "x"],
        ["a", False, "seen twice"],
        ["c", True, ""],
    ]
    assert read_feedback(tmp_path / "nowhere").empty


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,result\na,good\n", "lacks the column.s. verdict"),
        ("id,verdict\na,good\nb,maybe\n", "line 3: verdict 'maybe', expected good or defect"),
        (
            'id,verdict,note\n1,good,ok\n2,defect,"5 mm\n3,defect,x\n4,good,y\n',
            r"line 3: unexpected end of data; is a quote left open\?",
        ),
        ("id,verdict\na,good\n ,defect\n", "line 3: the id is missing"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "shift.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_feedback(tmp_path, tmp_path / "shift.csv")


def test_a_note_may_hold_any_line_break(tmp_path: Path) -> None:
    (tmp_path / "shift.csv").write_text(
        'id,verdict,note\n1,good,"a\nb"\n2,defect,x\u2028y\n', encoding="utf-8"
    )
    found = read_feedback(tmp_path, tmp_path / "shift.csv")
    assert found["note"].tolist() == ["a\nb", "x\u2028y"]
