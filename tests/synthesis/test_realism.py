"""The realism test's crops: the same shapes, by every method, on metal of the same class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metaldefect.images import write_png
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis import realism
from metaldefect.synthesis.painter import load_painter
from tests.tiny_models import save_tiny_painter

SIDE = 120


def write_merged(root: Path, count: int) -> None:
    """Photographs of grainy metal, each with one dark ellipse of its own shape, all in the test split."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[:SIDE, :SIDE]
        centre = rng.integers(30, 40, 2)
        mask = ((y - centre[0]) / rng.uniform(5, 9)) ** 2 + ((x - centre[1]) / rng.uniform(5, 9)) ** 2 < 1
        image = rng.normal(130, 3, (SIDE, SIDE)) - 60 * mask
        write_png(root / f"images/{number}.png", image.clip(0, 255).astype(np.uint8))
        write_png(root / f"masks/{number}.png", mask.astype(np.uint8) * 255)
        rows.append((f"images/{number}.png", f"masks/{number}.png", number))
    table = pd.DataFrame(rows, columns=["path", "mask_path", "scene"])
    table = table.assign(label="patches", split="test", group=table["scene"], sha256=table["path"])
    table.to_parquet(root / "samples.parquet")


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`measure_realism` on such images, with mean grey level and contrast as features."""
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    painter = load_painter(tmp_path / "vq", tmp_path / "maskgit")

    def simple(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1).astype(np.float32)
        return np.stack([flat.mean(axis=1), flat.std(axis=1), flat.min(axis=1)], axis=1)

    monkeypatch.setattr(realism, "pooled_features", simple)
    monkeypatch.setattr("metaldefect.metrics.realism.INTERVAL_SAMPLES", 20)

    def run(count: int) -> dict:
        write_merged(tmp_path / "merged", count)
        return realism.measure_realism(
            painter, tmp_path / "merged", "test", SamplingConfig(steps=2), limit=count, seed=0
        )

    return run


def test_copied_defects_pass_for_real_and_noise_does_not(measure) -> None:
    found = measure(16)
    assert found["defects"] == 16
    assert found["visible"]["copy_paste"] == 16
    assert found["copy_paste_realism_auroc"]["mean"] < 0.75
    assert found["procedural_realism_auroc"]["mean"] > found["copy_paste_realism_auroc"]["mean"]
    assert found.keys() - found["left_out"].keys() >= {"defects", "visible", "left_out"}


def test_too_few_defects_are_said_and_nothing_is_measured(measure) -> None:
    found = measure(2)
    assert found["left_out"] == dict.fromkeys(
        realism.METRICS.values(), "2 real defects with a free place, 3 scenes are needed"
    )
    assert not set(realism.METRICS.values()) & found.keys()


def test_crops_show_the_mask_in_the_middle_and_nothing_else(tmp_path: Path) -> None:
    write_merged(tmp_path, 6)
    rows = pd.read_parquet(tmp_path / "samples.parquet")
    originals = realism.find_originals(tmp_path, rows, 6)
    places = realism.find_places(tmp_path, rows, originals, 0)
    for one, place in zip(originals, places, strict=True):
        assert place is not None
        mask = place.spot.mask
        assert mask is not None
        assert mask.sum() == one.mask.sum()
        crop = place.canvas.pixels[realism.crop_window(mask)]
        assert crop.min() > 100, "the canvas's own defect is not in the crop"
        assert realism.crop_around(one.photograph, one.mask)[64, 64] < 90


def test_further_defects_of_a_photograph_come_after_the_first_of_every_other(tmp_path: Path) -> None:
    write_merged(tmp_path, 3)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:32, 20:32] = mask[90:100, 90:100] = mask[60:70, 110:] = 255  # the last is cut off by the border
    write_png(tmp_path / "masks/0.png", mask)
    rows = pd.read_parquet(tmp_path / "samples.parquet")
    found = realism.find_originals(tmp_path, rows, 10)
    assert [one.scene for one in found] == ["0", "1", "2", "0"]
    assert [one.scene for one in realism.find_originals(tmp_path, rows, 3)] == ["0", "1", "2"]


def test_the_canvas_is_another_photograph_of_the_same_class(tmp_path: Path) -> None:
    write_merged(tmp_path, 8)
    rows = pd.read_parquet(tmp_path / "samples.parquet")
    rows.loc[rows["scene"] % 2 == 1, "label"] = "inclusion"
    originals = realism.find_originals(tmp_path, rows, 8)
    known = {row["scene"]: realism.read_masked(tmp_path, row)[0].pixels for row in rows.to_dict("records")}
    for one, place in zip(originals, realism.find_places(tmp_path, rows, originals, 0), strict=True):
        assert place is not None
        (scene,) = [k for k, pixels in known.items() if np.array_equal(pixels, place.canvas.pixels)]
        assert str(scene) != one.scene
        assert scene % 2 == int(one.scene) % 2
