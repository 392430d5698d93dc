"""The table of what a pipeline run did, and the main metric in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.summary import StageResult, as_text, cause, table
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


DVC_FAILED = "ERROR: failed to reproduce 'merge': failed to run: python -m stages.merge, exited with 1"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            ["read 3 images", "merge: data/raw/a.png: truncated", DVC_FAILED],
            "merge: data/raw/a.png: truncated",
        ),
        (
            ["merge: 2 files are refused:", "  a.png: truncated", "  b.png: empty", DVC_FAILED],
            "merge: 2 files are refused:\n  a.png: truncated\n  b.png: empty",
        ),
        (["Traceback (most recent call last):", "ValueError: no", DVC_FAILED], "ValueError: no"),
        (
            ["ERROR: failed to reproduce 'merge': [Errno 2] No such file or directory: 'data/raw'"],
            "[Errno 2] No such file or directory: 'data/raw'",
        ),
        ([DVC_FAILED], "it printed nothing"),
        ([], "it printed nothing"),
    ],
)
def test_the_cause_of_a_failure_is_not_the_last_line_of_dvc(lines: list[str], reason: str) -> None:
    """Output as DVC 3.67 prints it."""
    assert cause("merge", lines) == reason
