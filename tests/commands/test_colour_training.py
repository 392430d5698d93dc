"""`metaldefect train` on a colour category: it keeps the colours, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.artifacts import read_json
from metaldefect.efficientad import held_out
from metaldefect.efficientad.torch_model import LAYERS
from metaldefect.images import write_png
from pipeline.cli import main
from tests.slim_detector import SLIM, save_slim_teacher

SHAPE = (132, 164)
SETTINGS = ["--steps", "4", "--checkpoint-steps", "2", "--penalty-images", "2", "--image-size", "128x160"]
SETTINGS += ["--no-export"]


def copper(seed: int) -> np.ndarray:
    """Copper with a wavy shine of its own, so that no two images are taken for one scene."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(SHAPE)
    turn = rng.uniform(0, np.pi)
    shine = 10 * np.sin((rows * np.cos(turn) + columns * np.sin(turn)) / rng.uniform(6, 12) + 6 * turn)
    level = (100 + shine + rng.normal(0, 2, SHAPE))[..., None]
    return np.rint(level * np.array([1.5, 1.0, 0.7])).astype(np.uint8)


def stained(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A stain of the same grey in another hue, 0.299 * 50 = 0.114 * 131, and its mask."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[40:80, 60:100] = 255
    return (copper(seed).astype(int) + (mask > 0)[..., None] * np.array([-50, 0, 131])).astype(np.uint8), mask


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colour category in MVTec AD's layout, whose defects cannot be seen in grey."""
    root = tmp_path_factory.mktemp("colour") / "copper"
    for k in range(8):
        write_png(root / f"train/good/{k:03d}.png", copper(k))
    for k in range(3):
        write_png(root / f"test/good/{k:03d}.png", copper(100 + k))
        image, mask = stained(200 + k)
        write_png(root / f"test/stain/{k:03d}.png", image)
        write_png(root / f"ground_truth/stain/{k:03d}_mask.png", mask)
    return root


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random teacher with few channels, and few painted defects."""
    monkeypatch.setattr(held_out, "CURVE_DEFECTS", 2)
    monkeypatch.setattr(held_out, "CALIBRATION_DEFECTS", 2)
    monkeypatch.setitem(LAYERS, "S", SLIM)
    return save_slim_teacher(tmp_path / "teacher.safetensors")


def run(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    assert stop.value.code == 0


def train(category: Path, output: Path, teacher: Path, *more: str) -> None:
    source = ["--source", "real", "--root", category]
    run("train", *source, "--teacher", teacher, "--output", output, *SETTINGS, *more)


def test_a_colour_category_keeps_its_colours_to_the_heat_maps(
    category: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "detector"
    train(category, model, teacher)
    assert "channels: 3, 4 of 4 training images looked at are coloured; --channels 1 trains on grey" in (
        capsys.readouterr().out
    )
    config, metrics = read_json(model / "config.json"), read_json(model / "metrics.json")
    assert (config["channels"], config["image_size"]) == (3, [128, 160])
    assert config["training"]["channels"] == 3
    assert metrics["memory_bank"]["image_auroc"] == 1.0, "the bank sees the hue"
    run("detect", "--model", model, "--image", category / "test", "--output", tmp_path / "maps")
    with Image.open(tmp_path / "maps/good/000.png.heat.png") as picture:
        red, _, blue = np.asarray(picture).reshape(-1, 3).mean(axis=0)
        assert red > 1.3 * blue, "heat maps lie over the copper"


def test_in_grey_the_same_category_shows_nothing(
    category: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "detector"
    train(category, model, teacher, "--channels", "1")
    assert "channels:" not in capsys.readouterr().out
    assert read_json(model / "config.json")["channels"] == 1
    assert read_json(model / "metrics.json")["memory_bank"]["image_auroc"] < 0.95
