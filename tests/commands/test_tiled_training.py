"""`metaldefect train --tiles`: from tiles to a threshold for whole images, and every door scores in tiles."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from metaldefect.artifacts import read_json
from metaldefect.commands.detect import load_model
from metaldefect.efficientad import held_out
from metaldefect.efficientad.model_files import read_scores
from metaldefect.efficientad.torch_model import LAYERS
from metaldefect.images import read_grey, write_png
from metaldefect.procedural.images import generate_normal_image
from pipeline.cli import main
from tests.slim_detector import SLIM, save_slim_teacher


def run(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    assert stop.value.code == 0


def test_training_on_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(held_out, "CURVE_DEFECTS", 2)
    monkeypatch.setattr(held_out, "CALIBRATION_DEFECTS", 2)
    monkeypatch.setitem(LAYERS, "S", SLIM)
    teacher = save_slim_teacher(tmp_path / "teacher.safetensors")
    root, model = tmp_path / "sheets", tmp_path / "detector"
    for k in range(8):
        write_png(root / f"train/good/{k:03d}.png", generate_normal_image(k, 300)[:150])
    for k in range(2):
        write_png(root / f"test/good/{k:03d}.png", generate_normal_image(50 + k, 300)[:150])
        image, mask = generate_normal_image(60 + k, 300)[:150].copy(), np.zeros((150, 300), np.uint8)
        image[100:106, 200:206], mask[100:106, 200:206] = 255, 255
        write_png(root / f"test/speck/{k:03d}.png", image)
        write_png(root / f"ground_truth/speck/{k:03d}_mask.png", mask)
    settings = ["--steps", "4", "--checkpoint-steps", "2", "--penalty-images", "2", "--image-size", "128"]
    where = ["--source", "real", "--root", root, "--teacher", teacher, "--output", model]
    run("train", *where, *settings, "--tiles", "40", "--no-export")
    # Two rows by three columns of each of five images
    assert "30 tiles to train on" in capsys.readouterr().out
    config, metrics = read_json(model / "config.json"), read_json(model / "metrics.json")
    assert (config["tiles"], config["image_size"]) == (40, 128)
    assert metrics["train_images"] == 30
    scores = read_scores(model)["trained"]
    assert len(scores.normals) == len(set(scores.scenes)) == metrics["validation_images"] == 2
    assert metrics["memory_bank"]["image_auroc"] == 1.0, "the bank sees a speck that resizing would blur"
    detector = load_model(model, "fp32")
    run("detect", "--model", model, "--image", root / "test", "--output", tmp_path / "maps")
    with (tmp_path / "maps/scores.csv").open(encoding="utf-8") as stream:
        found = {row["image"]: float(row["score"]) for row in csv.DictReader(stream)}
    image = read_grey(root / "test/speck/000.png")
    corners = [(top, left) for top in (0, 22) for left in (0, 86, 172)]
    parts = [detector.detect(image[top : top + 128, left : left + 128])[0] for top, left in corners]
    assert found["speck/000.png"] == pytest.approx(max(parts), rel=1e-4)
    run("calibrate", model, "--false-alarms", "30%", "--good", root / "test/good")
    assert sorted(read_scores(model)["trained"].normals[-2:]) == pytest.approx(
        sorted(found[f"good/{k:03d}.png"] for k in range(2)), rel=1e-4
    )
