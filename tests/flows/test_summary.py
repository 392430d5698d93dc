"""The table of what a pipeline run did, and the main metric in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.summary import StageResult, as_text, table
from pipeline.main_metrics import MAIN_METRICS, formatted, main_metric

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "merge.json").write_text('{"total": 2659}')
    (tmp_path / "metrics" / "evaluate_vq.json").write_text('{"after": {"ssim": {"value": 0.56123}}}')
    (tmp_path / "metrics" / "augment.json").write_text('{"total": "many"}')
    return tmp_path


def test_table_shows_state_time_and_main_metric(measured: Path) -> None:
    results = [StageResult("merge", "Completed", 12.345), StageResult("report", "Skipped")]
    assert as_text(table(measured, results)).splitlines() == [
        "stage   state      seconds  main metric",
        "merge   Completed  12.3     images 2,659",
        "report  Skipped    0.0",
    ]


def test_main_metric_survives_what_is_missing(measured: Path) -> None:
    assert main_metric(measured, "evaluate_vq") == "SSIM 0.5612"
    assert main_metric(measured, "augment") == ""  # no number
    assert main_metric(measured, "tokenize") == ""  # no file
    assert main_metric(measured, "unknown") == ""


def test_every_stage_that_measures_has_a_main_metric() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(MAIN_METRICS) == set(stages) - {"export_openvino", "report"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2659, "2,659"),
        (0.123456, "0.1235"),
        (1.5e-7, "1.5e-07"),
        (8057856.0, "8,057,856"),
        (True, "yes"),
        (None, "–"),
        ([0.25, 1], "0.2500, 1"),
    ],
)
def test_numbers_are_short(value: object, text: str) -> None:
    assert formatted(value) == text


def test_no_stages_is_said() -> None:
    assert as_text([]) == "no stages"
