"""Whole folders of photographs: cut, trained, published beside the memory bank, and nothing done twice."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import categories
from benchmarks.results import Interval, read
from benchmarks.strip_windows import DEFECT_EVERY
from metaldefect.artifacts import write_json
from metaldefect.commands.settings import TrainSettings, load_settings
from metaldefect.commands.train import METRICS
from metaldefect.efficientad import held_out
from metaldefect.efficientad.torch_model import LAYERS
from metaldefect.images import write_png
from metaldefect.metrics import detection
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image
from tests.slim_detector import SLIM, save_slim_teacher

PHOTOGRAPHS = 15


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Photographs as SD-saliency-900 has them: a third have their defect in the middle."""
    root = tmp_path / "raw/SD-saliency-900"
    for number in range(PHOTOGRAPHS):
        image, mask = generate_normal_image(number, 200), np.zeros((200, 200), bool)
        if number % DEFECT_EVERY:
            mask[180:190, 180:190] = True
        else:
            image[36:164, 36:164], mask[36:164, 36:164] = generate_anomalous_image(
                "scratch", np.random.default_rng(number), 128
            )
        write_png(root / f"Source Images/Sc_{number:02d}.png", image)
        write_png(root / f"Ground truth/Sc_{number:02d}.png", mask.astype(np.uint8) * 255)
    return root.parent


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> None:
    paths = [
        "--raw",
        str(folder / "raw"),
        "--work",
        str(folder / "work"),
        "--results",
        str(folder / "r.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["categories", *paths, "--steps", "2", *words])
    categories.main()


def load_small_settings(teacher: Path, config: Path | None, overrides: dict[str, Any]) -> TrainSettings:
    return load_settings(config, overrides | {"penalty_images": 3, "export": False, "teacher": str(teacher)})


def test_windows_of_strip_are_cut_trained_and_published_once(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "CALIBRATION_DEFECTS", 2)
    monkeypatch.setattr(held_out, "CURVE_DEFECTS", 2)
    monkeypatch.setattr(detection, "BOOTSTRAP_SAMPLES", 5)
    monkeypatch.setitem(LAYERS, "S", SLIM)
    teacher = save_slim_teacher(tmp_path / "teacher.safetensors")
    monkeypatch.setattr(categories, "load_settings", partial(load_small_settings, teacher))
    run(monkeypatch, tmp_path, "--only", "strip_windows")
    result = read(tmp_path / "r.json")
    assert set(result.details) == {"minutes", "steps", "strip_windows"}
    assert (result.details["steps"], result.details["strip_windows"]["steps"]) == (2, 2)
    assert result.details["strip_windows"]["images"]["defective"] == PHOTOGRAPHS // DEFECT_EVERY
    ours = {f"strip_windows_{metric}" for metric in categories.REPORTED}
    bank = {f"strip_windows_memory_bank_{metric}" for metric in ("image_auroc", "au_pro", "f1_max")}
    assert set(result.figures) == ours | bank
    for name, figure in result.figures.items():
        assert isinstance(figure, Interval), name
        assert 0 <= figure.low <= figure.high <= 1

    monkeypatch.setattr(categories, "run_training", lambda _: pytest.fail("trained again"))
    monkeypatch.setattr(categories, "write_windows", lambda *_: pytest.fail("cut again"))
    run(monkeypatch, tmp_path, "--only", "strip_windows")
    assert read(tmp_path / "r.json").figures == result.figures


def pretend_training(asked: list[TrainSettings], settings: TrainSettings) -> None:
    """Write the metrics of a training with one measure."""
    asked.append(settings)
    bank = {"image_auroc": 0.5, "interval_95": {"image_auroc": [0.25, 0.75]}, "verdict": "none"}
    metrics = {"image_auroc": 0.9, "interval_95": {"image_auroc": [0.8, 1.0]}, "memory_bank": bank}
    write_json(settings.output / METRICS, metrics)


def test_named_folders_are_trained_for_the_minutes_with_the_commands_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainSettings] = []
    monkeypatch.setattr(categories, "run_training", partial(pretend_training, asked))
    folders = [f"{name}={tmp_path / name}" for name in ("nuts", "bolts")]
    paths = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "r.json"), "--minutes", "7"]
    monkeypatch.setattr(sys, "argv", ["x", *paths, "--more", *folders, "--only", "bolts"])
    categories.main()
    overrides = {"source": "real", "root": tmp_path / "bolts", "minutes": 7.0, "seed": categories.SEED}
    output = {"output": tmp_path / "work/detectors/bolts"}
    assert asked == [load_settings(None, overrides | output)]
    assert read(tmp_path / "r.json").figures == {
        "bolts_image_auroc": Interval(value=0.9, low=0.8, high=1.0),
        "bolts_memory_bank_image_auroc": Interval(value=0.5, low=0.25, high=0.75),
    }
