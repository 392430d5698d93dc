"""What the tokenizer's evaluation measures: yardsticks, names of metrics, and the learning curve."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from metaldefect.tokenizer import evaluation
from metaldefect.tokenizer.evaluation import Distance, constant_image_scores, image_scores, learning_curve
from metaldefect.tokenizer.model import VQModel
from metaldefect.training.snapshot_files import FOLDER, load_snapshot, spread_snapshots
from tests.tiny_models import TINY_TOKENIZER


class MeanDifference(nn.Module):
    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (images - targets).abs().mean(dim=(1, 2, 3))


def test_a_stand_in_for_lpips_has_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for made, key in (("lpips-squeeze", "lpips"), ("efficientnet_lite0", "efficientnet_lite0_distance")):
        monkeypatch.setattr(evaluation, "perceptual_loss", lambda name, made=made: (MeanDifference(), made))
        with warnings.catch_warnings():
            assert Distance.named("squeeze").key == key


def test_a_constant_image_is_the_yardstick() -> None:
    image = np.zeros((16, 16), np.uint8)
    image[:8] = 200
    scores = constant_image_scores(image[None])
    assert scores["mse"] == pytest.approx(100.0**2)
    assert scores["ssim"] < 0.1
    assert image_scores(image, image)["mse"] == 0.0


def write_snapshots(folder: Path, model: nn.Module, steps: tuple[int, ...]) -> None:
    for step in steps:
        state = {name: (p + 0.01 * step).detach().half() for name, p in model.named_parameters()}
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        save_file(state, folder / FOLDER / f"step_{step:06d}.safetensors")


def test_snapshots_are_spread_with_both_ends(tmp_path: Path) -> None:
    write_snapshots(tmp_path, nn.Linear(1, 1), (0, 10, 20, 30, 40))
    assert list(spread_snapshots(tmp_path, 1)) == [0, 40]
    assert list(spread_snapshots(tmp_path, 2)) == [0, 20, 40]
    assert list(spread_snapshots(tmp_path, 9)) == [0, 10, 20, 30, 40]
    with pytest.raises(ValueError, match="0 points are no curve"):
        spread_snapshots(tmp_path, 0)


def test_a_learning_curve_has_a_row_per_snapshot_with_its_own_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VQModel(TINY_TOKENIZER)
    write_snapshots(tmp_path, model, (0, 5))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    files = spread_snapshots(tmp_path, 1)
    rows = learning_curve(model, files, images, Distance("lpips", MeanDifference()), batch_size=8)
    assert [row["images_seen"] for row in rows] == [0.0, 40.0]
    assert rows[0]["ssim"] != rows[1]["ssim"]
    load_snapshot(model, files[0])
    again = evaluation.reconstruct(model, images, Distance("lpips", MeanDifference())).scores
    assert rows[0]["ssim"] == pytest.approx(again["ssim"].mean())
    assert rows[0]["lpips"] == pytest.approx(again["lpips"].mean())


def test_a_few_scenes_give_every_figure_but_rkid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "pooled_features", lambda images: images.reshape(len(images), -1)[:, :8])
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    found = evaluation.reconstruct(VQModel(TINY_TOKENIZER), images, Distance("lpips", MeanDifference()))
    four, two = (pd.DataFrame({"scene": list(scenes)}) for scenes in ("abcd", "aabb"))

    enough, few = (evaluation.summarise(found, images, table, 16) for table in (four, two))

    assert set(enough) - set(few) == {"rkid"}
    assert evaluation.why_no_rkid(list("abcd")) == {}
    assert evaluation.why_no_rkid(list("aabb")) == {"rkid": "2 test scenes, 4 are needed"}
