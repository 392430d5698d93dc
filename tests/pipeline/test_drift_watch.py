"""Planted drift is reported once, then there is quiet; little data decides nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from metaldefect.artifacts import read_json, write_json
from metaldefect.deploy.bundle import bundle_version
from metaldefect.deploy.prediction_log import SCHEMA as LOG_SCHEMA
from metaldefect.deploy.reference import REFERENCE
from metaldefect.deploy.reference import SCHEMA as REFERENCE_SCHEMA
from metaldefect.errors import UserError
from metaldefect.metrics.drift import DriftSettings
from pipeline import drift_watch
from pipeline.drift_watch import Look, look, table

SETTINGS = DriftSettings(min_rows=40, max_rows=80, false_alarm_rate=0.01, permutations=599)
START = datetime(2026, 11, 2, 6, tzinfo=UTC)
DAY = timedelta(days=1)


def observations(random: np.random.Generator, count: int, brighter: float = 0.0) -> list[dict]:
    return [
        {
            "score": random.gamma(4, 0.01),
            "grey_mean": 120 + brighter + random.normal(0, 5),
            "grey_std": 20 + random.normal(0, 1),
            "embedding": random.gamma(4, 0.01, 64).tolist(),
        }
        for _ in range(count)
    ]


class Line:
    """A line whose service logs rows; `at` is its clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.bundle, self.log = root, root / "models/champion", root / "scores"
        self.random, self.at, self.files = np.random.default_rng(0), START, 0
        self.log.mkdir()

    def runs(self, count: int, brighter: float = 0.0, version: str | None = None) -> None:
        """Log `count` frames, one per minute."""
        common = {"threshold": 0.2, "is_anomalous": False, "precision": "fp16", "id": "x"}
        rows = []
        for row in observations(self.random, count, brighter):
            self.at += timedelta(minutes=1)
            named = version or bundle_version(self.bundle)
            rows.append({**row, **common, "model_version": named, "time": self.at})
        self.files += 1
        path = self.log / f"scores-{self.files:013}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, LOG_SCHEMA), path)

    def looks(self) -> Look:
        return look(self.root, self.bundle, self.log, SETTINGS, DAY, self.at)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    line = Line(tmp_path)
    line.bundle.mkdir(parents=True)
    rows = [{"precision": "fp16", **row} for row in observations(line.random, 80)]
    pq.write_table(pa.Table.from_pylist(rows, REFERENCE_SCHEMA), line.bundle / REFERENCE)
    write_json(line.bundle / "metadata.json", {"made": "up"})

    def read_reference(folder: Path, precision: str):
        found = pq.read_table(folder / REFERENCE).to_pandas()
        return found[found["precision"] == precision]

    monkeypatch.setattr(drift_watch, "read_reference", read_reference)
    return line


def test_planted_drift_triggers_once_then_cools_down_and_comes_back(line: Line) -> None:
    line.runs(60)
    assert line.looks().outcome == "Stable"
    line.runs(60, brighter=12)
    found = line.looks()
    assert found.outcome == "Drift"
    assert found.text.startswith("drift in brightness of the images: 60 images against 80 of the reference")
    for _ in range(3):
        line.runs(60, brighter=12)
        assert line.looks().outcome == "Cooling"
    line.at += DAY
    assert line.looks().outcome == "Drift", "it is still there after the cooldown"


def test_a_row_is_compared_once(line: Line) -> None:
    line.runs(60)
    assert line.looks().outcome == "Stable"
    assert line.looks() == Look("Waiting", f"0 of 40 new rows of the live model in {line.log}")
    line.runs(39)
    assert line.looks().text.startswith("39 of 40 new rows")
    line.runs(1)
    assert line.looks().outcome == "Stable"


def test_rows_of_another_model_do_not_count(line: Line) -> None:
    line.runs(60, brighter=50, version="before")
    assert line.looks().text.startswith("0 of 40")


def test_the_result_is_written_and_shown(line: Line) -> None:
    line.runs(60, brighter=12)
    found = line.looks()
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
    assert "| brightness of the images | KS |" in shown
    assert "**drift**" in shown


def test_no_model_is_no_error(tmp_path: Path) -> None:
    found = look(tmp_path, tmp_path / "models/champion", tmp_path / "scores", SETTINGS, DAY, START)
    assert found.outcome == "Waiting"
    assert found.text.startswith("no model serves yet")


def test_a_damaged_state_is_named(line: Line) -> None:
    (line.root / "reports/drift").mkdir(parents=True)
    write_json(line.root / "reports/drift/state.json", {"seen": "never"})
    with pytest.raises(UserError, match=r"state\.json is not valid"):
        line.looks()
