"""Operators' verdicts give the live model's metrics and the hard cases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaldefect.artifacts import read_json
from metaldefect.deploy.feedback import Feedback, FeedbackLog
from metaldefect.deploy.prediction_log import SCHEMA
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


def test_without_verdicts_the_report_is_empty(log: Path, tmp_path: Path) -> None:
    report = collect(tmp_path, log)
    assert (report.metrics, report.verdicts, len(report.hard_cases)) == ({}, 0, 0)
    assert pd.read_csv(tmp_path / "reports/live/hard_cases.csv").empty
