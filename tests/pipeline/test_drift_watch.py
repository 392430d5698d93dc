"""Planted drift is reported once, then there is quiet; little data decides nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import UserError
from metaldefect.metrics.drift import DriftSettings
from pipeline.drift_watch import Look, look, table
from tests.drifting_line import START, Line

SETTINGS = DriftSettings(min_rows=40, max_rows=80, false_alarm_rate=0.01, permutations=1500)
DAY = timedelta(days=1)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def look_at(line: Line) -> Look:
    return look(line.root, line.bundle, line.log, SETTINGS, DAY, line.at)


def test_planted_drift_triggers_once_then_cools_down_and_comes_back(line: Line) -> None:
    line.runs(60)
    assert look_at(line).outcome == "Stable"
    line.runs(60, brighter=12)
    found = look_at(line)
    assert found.outcome == "Drift"
    assert found.text.startswith("drift in brightness: 60 images against 80 of the reference")
    for _ in range(3):
        line.runs(60, brighter=12)
        assert look_at(line).outcome == "Cooling"
    line.at += DAY
    assert look_at(line).outcome == "Drift", "it is still there after the cooldown"


def test_a_row_is_compared_once(line: Line) -> None:
    line.runs(60)
    assert look_at(line).outcome == "Stable"
    assert look_at(line) == Look("Waiting", f"0 of 40 new rows of the live model in {line.log}")
    line.runs(39)
    assert look_at(line).text.startswith("39 of 40 new rows")
    line.runs(1)
    assert look_at(line).outcome == "Stable"


def test_rows_of_another_model_do_not_count(line: Line) -> None:
    line.runs(60, brighter=50, version="before")
    assert look_at(line).text.startswith("0 of 40")


def test_the_result_is_written_and_shown(line: Line) -> None:
    line.runs(60, brighter=12)
    found = look_at(line)
    assert found.result is not None
    content = read_json(line.root / "reports/drift/latest.json")
    assert (content["outcome"], content["precision"], content["rows"]) == ("Drift", "fp16", 60)
    assert content["settings"]["false_alarm_rate"] == 0.01
    picture = Image.open(line.root / "reports/drift/latest.png").convert("RGB")
    red = np.all(np.asarray(picture) == (214, 39, 40), axis=2)
    # the frame of the second of four panels, which shows the brightness, and no other
    columns = np.flatnonzero(red[100:].sum(axis=0) > 100) / picture.width
    assert len(columns)
    assert 0.25 < columns.min() < columns.max() < 0.55
    shown = table(found.result.statistics)
    assert "| brightness | KS |" in shown
    assert "**drift**" in shown


def test_a_camera_that_always_says_the_same_has_no_threshold(line: Line) -> None:
    line.runs(60, constant={"grey_std": 20.0})
    line.rewrite_reference({"grey_std": 20.0})
    assert look_at(line).outcome == "Waiting", "another reference is another model"
    line.runs(60, constant={"grey_std": 20.0})
    assert look_at(line).outcome == "Stable"
    statistics = read_json(line.root / "reports/drift/latest.json")["statistics"]
    assert {each["name"] for each in statistics if each["threshold"] is None} == {
        "grey_std_ks",
        "grey_std_psi",
    }


def test_no_model_is_no_error(tmp_path: Path) -> None:
    found = look(tmp_path, tmp_path / "models/champion", tmp_path / "scores", SETTINGS, DAY, START)
    assert found.outcome == "Waiting"
    assert found.text.startswith("no model serves yet")


def test_a_damaged_state_is_named(line: Line) -> None:
    (line.root / "reports/drift").mkdir(parents=True)
    write_json(line.root / "reports/drift/state.json", {"seen": "never"})
    with pytest.raises(UserError, match=r"state\.json is not valid"):
        look_at(line)
