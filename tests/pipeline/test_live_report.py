"""Operators' verdicts give the live model's metrics and the hard cases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from metaldefect.artifacts import read_json
from metaldefect.deploy.feedback import Feedback, FeedbackLog, read_feedback
from metaldefect.deploy.frame_store import FRAMES, FrameStore
from metaldefect.deploy.prediction_log import SCHEMA
from metaldefect.errors import UserError
from pipeline.live_report import collect, table_of


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Ten parts, p0 to p9, with scores 0.0 to 0.9; from 0.5 on they are flagged."""
    folder = tmp_path / "scores"
    folder.mkdir()
    start = datetime(2026, 11, 2, tzinfo=UTC)
    rows = [
        {
            "id": f"p{k}", "time": start + timedelta(minutes=k), "score": k / 10, "threshold": 0.45,
            "is_anomalous": k >= 5, "model_version": "v1", "precision": "fp16", "grey_mean": 0.0,
            "grey_std": 0.0, "embedding": [0.0] * 64,
        }
        for k in range(10)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "scores-1.parquet")
    return folder


def test_verdicts_of_service_and_table_become_metrics_and_hard_cases(log: Path, tmp_path: Path) -> None:
    said = FeedbackLog(log)
    for part, defective in (("p9", True), ("p8", True), ("p5", True), ("p6", True), ("p0", False)):
        said.add(Feedback(id=part, defective=defective))
    table = tmp_path / "shift.csv"
    table.write_text("id,verdict,note\np5,good,oil\np1,defect,crack\nlost,good,\n")

    report = collect(tmp_path, log, table, CLASSES)

    confirmed, missed = report.metrics["v1"].confirmed, report.metrics["v1"].missed
    assert (confirmed.count, confirmed.of, missed.count, missed.of) == (3, 4, 1, 2)
    assert report.unknown == ["lost"]
    assert "of its alarms 3 of 4 (75 %, 19 to 99 %) were defects" in str(report)
    assert "1 verdicts name images that the log does not hold: lost" in str(report)
    cases = pd.read_csv(tmp_path / "reports/live/hard_cases.csv")
    assert cases[["id", "kind", "note"]].values.tolist() == [
        ["p1", "missed defect", "crack"],
        ["p5", "false alarm", "oil"],
    ]
    assert cases["margin"].tolist() == pytest.approx([0.35, 0.05])
    content = read_json(tmp_path / "reports/live/metrics.json")
    assert content["models"]["v1"]["missed"]["value"] == 0.5
    assert "| v1 | 3 of 4 (75 %, 19 to 99 %) | 1 of 2 (50 %, 1 to 99 %) |" in table_of(report)


CLASSES = ("dent", "scratch")


def photographs(root: Path) -> dict[str, bytes]:
    """What lies in the inbox, by folder."""
    return {path.parent.name: path.read_bytes() for path in (root / "inbox").rglob("*.*") if path.is_file()}


def test_photographs_of_hard_cases_go_to_the_inbox_once(log: Path, tmp_path: Path) -> None:
    """The service kept one, the table names one, one has no class, and one is gone."""
    kept = FrameStore(log / FRAMES, most=10)
    for part in ("p1", "p2", "p9"):
        kept.add(part, b"\x89PNG " + part.encode())
    (tmp_path / "p8.jpg").write_bytes(b"jpeg of p8")
    said = FeedbackLog(log)
    said.add(Feedback(id="p1", defective=True, label="dent"))
    said.add(Feedback(id="p2", defective=True))
    said.add(Feedback(id="p9", defective=True, label="dent"))  # the model says so too
    said.add(Feedback(id="p7", defective=False))
    table = tmp_path / "shift.csv"
    table.write_text("id;verdict;path\np8;good;p8.jpg\n")

    report = collect(tmp_path, log, table, CLASSES)

    assert (report.sending.sent, report.sending.unnamed) == (2, ["p2"])
    assert "2 photographs of hard cases sent to the inbox" in str(report)
    assert "1 missed defects wait for a label: p2" in str(report)
    assert photographs(tmp_path) == {"dent": b"\x89PNG p1", "good": b"jpeg of p8"}
    assert next((tmp_path / "inbox/good").iterdir()).name.startswith("live-p8-")

    for path in (tmp_path / "inbox").rglob("*.*"):
        path.unlink()
    said.add(Feedback(id="p2", defective=True, label="scratch"))
    assert collect(tmp_path, log, table, CLASSES).sending.sent == 1
    assert photographs(tmp_path) == {"scratch": b"\x89PNG p2"}


def test_a_verdict_speaks_of_the_part_that_was_scored_before_it(log: Path, tmp_path: Path) -> None:
    """A camera that starts again at the same names must not get the last shift's verdicts."""
    said = FeedbackLog(log)
    said.add(Feedback(id="p9", defective=False))
    rows = pq.read_table(log / "scores-1.parquet").to_pylist()
    again = {**rows[9], "time": datetime.now(UTC) + timedelta(hours=8), "score": 0.95}
    pq.write_table(pa.Table.from_pylist([again], SCHEMA), log / "scores-2.parquet")
    FrameStore(log / FRAMES, most=10).add("p9", b"\x89PNG of the next shift")
    report = collect(tmp_path, log, None, CLASSES)
    (case,) = report.hard_cases.to_dict("records")
    assert (case["id"], round(case["score"], 3)) == ("p9", 0.9)
    assert report.hard_cases["photograph"].tolist() == [""]
    assert report.sending.sent == 0


@pytest.mark.parametrize("label", ["good", "masks", "crak"])
def test_a_defect_is_sent_under_a_class_of_the_project_only(label: str, log: Path, tmp_path: Path) -> None:
    FrameStore(log / FRAMES, most=10).add("p1", b"\x89PNG p1")
    said = FeedbackLog(log)
    said.add(Feedback(id="p1", defective=True, label=label))
    report = collect(tmp_path, log, None, CLASSES)
    assert report.sending.unknown == [f"{label} of p1"]
    assert f"1 labels are no class of params.yaml: {label} of p1" in str(report)
    assert photographs(tmp_path) == {}
    said.add(Feedback(id="p1", defective=True, label="dent"))
    assert collect(tmp_path, log, None, CLASSES).sending.sent == 1


def test_a_verdict_that_is_corrected_later_names_the_file_to_move(log: Path, tmp_path: Path) -> None:
    FrameStore(log / FRAMES, most=10).add("p1", b"\x89PNG p1")
    said = FeedbackLog(log)
    said.add(Feedback(id="p1", defective=True, label="dent"))
    assert collect(tmp_path, log, None, CLASSES).sending.corrected == []
    said.add(Feedback(id="p1", defective=False))
    (line,) = collect(tmp_path, log, None, CLASSES).sending.corrected
    assert line.startswith("dent/live-p1-")
    assert line.endswith("from dent to good")


def test_photographs_wait_for_a_table_in_the_inbox(log: Path, tmp_path: Path) -> None:
    """Beside a table the inbox takes only what the table names."""
    FrameStore(log / FRAMES, most=10).add("p1", b"\x89PNG p1")
    FeedbackLog(log).add(Feedback(id="p1", defective=True, label="dent"))
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/new.csv").write_text("path,label\na.png,dent\n")
    assert collect(tmp_path, log, None, CLASSES).sending.waits
    (tmp_path / "inbox/new.csv").unlink()
    assert collect(tmp_path, log, None, CLASSES).sending.sent == 1


def test_a_torn_verdict_costs_itself_alone(log: Path, tmp_path: Path) -> None:
    said = FeedbackLog(log)
    said.add(Feedback(id="p1", defective=True))
    with said.path.open("ab") as stream:
        stream.write(b'{"id": "p3", "defec\0\0\xff')
    said.add(Feedback(id="p9", defective=True))
    assert collect(tmp_path, log, None, CLASSES).verdicts == 2


@pytest.mark.parametrize("label", ["../outside", "a/b", "a\\b", ".hidden", "a\x00b"])
def test_a_label_names_no_other_folder(label: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="label"):
        Feedback(id="p1", defective=True, label=label)
    table = tmp_path / "shift.csv"
    table.write_text(f"id,verdict,label\np1,defect,{label}\n")
    with pytest.raises(UserError, match="is no name of a class"):
        read_feedback(tmp_path, table)


def test_without_verdicts_the_report_is_empty(log: Path, tmp_path: Path) -> None:
    report = collect(tmp_path, log)
    assert (report.metrics, report.verdicts, len(report.hard_cases)) == ({}, 0, 0)
    assert pd.read_csv(tmp_path / "reports/live/hard_cases.csv").empty
