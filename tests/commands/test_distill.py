from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metaldefect.artifacts import read_json
from metaldefect.cli import app
from metaldefect.commands import distill
from metaldefect.efficientad.teacher_weights import load_target_statistics, load_teacher
from metaldefect.errors import UserError
from metaldefect.ingest.samples import COLUMNS, TABLE_NAME, write_table
from tests.efficientad.test_distillation import tiny_features


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        Image.fromarray(np.full((20, 20), 10 * index, np.uint8)).save(folder / name)


def test_of_a_merged_dataset_only_the_training_split_is_read(tmp_path: Path) -> None:
    names = [f"{index}.png" for index in range(4)]
    write_images(tmp_path, names)
    table = pd.DataFrame({name: [None] * 4 for name in COLUMNS})
    table["path"], table["split"] = names, ["train", "test", "validation", "train"]
    write_table(tmp_path / TABLE_NAME, table)
    images = distill.metal_images([tmp_path], 16)
    assert [image[0, 0] for image in images] == [0, 30]


def test_masks_are_no_metal(tmp_path: Path) -> None:
    write_images(tmp_path / "test", ["0.png", "1.jpg", "1.png"])
    write_images(tmp_path / "ground_truth", ["0.png"])
    assert len(distill.metal_images([tmp_path], 16)) == 2


@pytest.fixture
def distil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command with a tiny backbone and three steps a call; returns the folder that it runs in."""
    monkeypatch.setattr(distill, "load_backbone", lambda *_: tiny_features().backbone)
    monkeypatch.setattr("metaldefect.efficientad.distillation.STATISTICS_BATCHES", 2)
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    write_images(tmp_path / "metal", [f"{index}.png" for index in range(6)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    # Of the time limit only the first step fits.
    given = ["--metal", "metal", "--minutes", "0.0001", "--batch-size", "2", *arguments]
    monkeypatch.setattr(sys, "argv", ["metaldefect", "distill", *given])
    app(["distill", *given], standalone_mode=False)


def test_going_on_from_weights_adds_up(distil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--output", "first.safetensors")
    run(
        monkeypatch,
        "--output",
        "second.safetensors",
        "--base",
        "first.safetensors",
        "--learning-rate",
        "1e-30",
    )
    first, second = (read_json(distil / f"{name}.json") for name in ("first", "second"))
    assert first["images_seen"] == 2 * first["steps"]
    assert second["images_seen"] == 2 * second["steps"]
    assert second["steps"] > first["steps"]
    assert second["computing_minutes"] >= first["computing_minutes"]
    assert second["base"]["sha256"] == first["sha256"]
    # A vanishing learning rate leaves weights and statistics as they were.
    weights = [load_teacher(distil / f"{name}.safetensors").state_dict() for name in ("first", "second")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    statistics = [load_target_statistics(distil / f"{name}.safetensors") for name in ("first", "second")]
    assert all(torch.equal(a, b) for a, b in zip(*statistics, strict=True))


def test_weights_of_another_size_are_no_start(distil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--output", "first.safetensors")
    with pytest.raises(UserError, match=r"first\.safetensors has size S, not M: choose other weights"):
        run(monkeypatch, "--output", "second.safetensors", "--base", "first.safetensors", "--size", "M")
