"""The reference for drift in a bundle, and operators' verdicts from a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.deploy.feedback import read_feedback
from metaldefect.deploy.prediction_log import observed_columns
from metaldefect.deploy.reference import REFERENCE, add_reference, read_reference
from metaldefect.deploy.runtime import Detector
from metaldefect.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 200, (3, 90, 120), dtype=np.uint8)


def test_a_bundle_gets_one_row_per_image_and_precision_and_still_loads(bundle: Path) -> None:
    before = Detector.load(bundle, "fp32", self_test=False)
    add_reference(bundle, IMAGES)
    after = Detector.load(bundle, "fp32")
    assert after.version != before.version, "the metadata covers the new file"
    for precision in PRECISIONS:
        rows = read_reference(bundle, precision)
        assert len(rows) == 3
        columns = observed_columns(rows)
        assert columns["embedding"].shape == (3, 64)
        # of the camera's image, not of the one that the network sees
        assert columns["grey_std"] == pytest.approx([image.std() for image in IMAGES], rel=1e-6)
    scores = [after.predict(image).score for image in IMAGES]
    assert read_reference(bundle, "fp32")["score"].tolist() == pytest.approx(scores, abs=1e-5)


def test_a_bundle_without_a_reference_or_with_another_one_is_refused(bundle: Path) -> None:
    with pytest.raises(UserError, match="holds no reference for drift: export the detector again"):
        read_reference(bundle, "fp32")
    add_reference(bundle, IMAGES)
    (bundle / REFERENCE).write_bytes(b"other")
    with pytest.raises(UserError, match="SHA-256"):
        read_reference(bundle, "fp32")


def test_verdicts_of_a_table_replace_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "feedback.jsonl").write_text(
        '{"time": "t", "id": "a", "defective": true, "note": ""}\n'
        '{"time": "t", "id": "b", "defective": true, "note": "x"}\n'
    )
    table = tmp_path / "shift.csv"
    table.write_text("\ufeffID;Verdict;Note\na;good;seen twice\nc;NOK;\n", encoding="utf-8")
    found = read_feedback(tmp_path, table)
    assert found.values.tolist() == [["b", True, "x"], ["a", False, "seen twice"], ["c", True, ""]]
    assert read_feedback(tmp_path / "nowhere").empty


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,result\na,good\n", "lacks the column.s. verdict"),
        ("id,verdict\na,good\nb,maybe\n", "line 3: verdict 'maybe', expected good or defect"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "shift.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_feedback(tmp_path, tmp_path / "shift.csv")
