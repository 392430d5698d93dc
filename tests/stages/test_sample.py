"""The `sample` stage: its outs, counts and contact sheets."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metaldefect.procedural import figures
from pipeline.params import Sample
from stages import sample


class RecordingRun:
    """Stands in for the MLflow run and keeps what the stage logs."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        self.metrics = metrics


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingRun:
    monkeypatch.chdir(tmp_path)
    section = Sample(neu_det=5, sd_saliency_900=1, x_sdd=1, normal=5, defective=2)
    recording = RecordingRun()
    sample.main(SimpleNamespace(seed=0, sample=section), recording)  # type: ignore[arg-type]
    return recording


def test_writes_datasets_and_counts_of_which_contact_sheets_are_drawn(run: RecordingRun) -> None:
    expected = {
        "images": {"NEU-DET": 30, "SD-saliency-900": 3, "X-SDD": 4, "inspection": 17},
        "total": 54,
    }
    assert json.loads(Path("metrics/sample.json").read_text()) == expected
    assert run.metrics == expected
    assert sorted(path.name for path in Path("data/sample").iterdir()) == [
        ".drawn.txt",
        "NEU-DET",
        "SD-saliency-900",
        "X-SDD",
        "inspection",
    ]
    drawn = figures.sample_figures(sample.OUTPUT)
    assert list(drawn) == ["one_row_per_class", "test_defects_with_mask_outlines"]
    for name, figure in drawn.items():
        figure.savefig(f"{name}.png", dpi=80)
        with Image.open(f"{name}.png") as image:
            assert min(image.size) > 400
            assert np.asarray(image.convert("L")).std() > 20


def test_rows_are_named_and_hold_the_first_images(run: RecordingRun) -> None:
    rows = figures.class_rows(sample.OUTPUT)
    assert list(rows) == [
        "normal",
        "crazing",
        "inclusion",
        "patches",
        "pitted_surface",
        "rolled-in_scale",
        "scratches",
        "X-SDD: iron sheet ash",
        "X-SDD: oxide scale of plate system",
        "X-SDD: red iron",
        "X-SDD: surface scratch",
    ]
    assert [len(images) for images in rows.values()] == [4, *[4] * 6, *[1] * 4]


def test_files_are_taken_in_the_order_a_person_counts(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"x_{number}.png").touch()
    assert [path.name for path in figures.first_files(tmp_path)] == ["x_1.png", "x_2.png", "x_10.png"]


def test_outline_draws_around_the_mask_alone() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[4, 4] = 255
    drawn = figures.outline(np.full((9, 9), 50, np.uint8), mask)
    assert drawn[4, 4] == 50
    assert drawn[4, 3] == drawn[3, 4] == 255
    assert (drawn == 255).sum() == 4
