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

    report = collect(tmp_path, log, table)

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


def test_photographs_of_hard_cases_go_to_the_inbox_once(log: Path, tmp_path: Path) -> None:
    """One that the service kept, one that the table names, one without a class, and one that is gone."""
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

    report = collect(tmp_path, log, table)

    assert (report.sent, report.unnamed) == (2, 1)
    assert "2 photographs of hard cases sent to the inbox" in str(report)
    assert "1 missed defects have no label" in str(report)
    found = {path.parent.name: path for path in (tmp_path / "inbox").rglob("*") if path.is_file()}
    assert found.keys() == {"dent", "good"}
    assert found["dent"].read_bytes() == b"\x89PNG p1"
    assert found["good"].read_bytes() == b"jpeg of p8"
    assert found["good"].suffix == ".jpg"

    for path in found.values():
        path.unlink()
    said.add(Feedback(id="p2", defective=True, label="scratch"))
    assert collect(tmp_path, log, table).sent == 1
    (path,) = (path for path in (tmp_path / "inbox").rglob("*") if path.is_file())
    assert path.parent.name == "scratch"


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
