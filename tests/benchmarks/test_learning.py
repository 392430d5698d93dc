"""The study of what makes the detector learn faster, on a few procedural tiles and with slim networks."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import learning
from benchmarks.learning import VARIANTS, rising_quantile, student_losses
from benchmarks.pivots import PIVOTS, pivoted
from metaldefect.artifacts import read_json
from metaldefect.efficientad import held_out
from metaldefect.efficientad.lightning_model import training_losses
from metaldefect.efficientad.torch_model import FEATURES, LAYERS, EfficientAD, PatchDescriptionNetwork
from metaldefect.efficientad.training_data import Batch, TrainingImages
from metaldefect.procedural.images import generate_normal_image
from metaldefect.training import callbacks
from tests.few_tiles import save_few_tiles
from tests.slim_detector import SLIM, save_slim_teacher


@pytest.fixture
def slim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks, and a clock of their own: each step takes a second."""
    monkeypatch.setitem(LAYERS, "S", SLIM)
    monkeypatch.setattr(callbacks, "computing_time", itertools.count(0.0).__next__)


def batch_of(model: EfficientAD, seed: int) -> Batch:
    torch.manual_seed(seed)
    images, augmented, penalty = torch.randn(3, 2, 3, 128, 128)
    with torch.no_grad():
        return Batch(images, augmented, penalty, model.normalised_teacher(images))


def test_the_students_losses_are_those_of_the_whole_step(slim: None) -> None:
    torch.manual_seed(0)
    model = EfficientAD("S")
    batch = batch_of(model, 1)
    _, parts = training_losses(model, batch, 0.97)
    torch.testing.assert_close(student_losses(model, batch, 0.97), parts["hard"] + parts["penalty"])


def test_the_quantile_rises_with_the_time() -> None:
    assert [rising_quantile(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.99, 0.999])


def trained(
    name: str, tmp_path: Path, seconds: float = 5
) -> tuple[EfficientAD, PatchDescriptionNetwork, int]:
    torch.manual_seed(5)
    teacher = PatchDescriptionNetwork("S").eval().requires_grad_(False)
    normal = np.stack([generate_normal_image(k, 128) for k in range(3)])
    photographs = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    images = TrainingImages(normal, photographs, "noise")
    model, steps = learning.train_variant(VARIANTS[name], teacher, images, seconds, 3, tmp_path / name)
    return model, teacher, steps


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_the_student(name: str, slim: None, tmp_path: Path) -> None:
    model, teacher, steps = trained(name, tmp_path)
    torch.manual_seed(3)
    start = EfficientAD("S").student.convolutions[-1].weight
    assert steps == 5
    assert isinstance(start, torch.Tensor)
    assert not torch.equal(model.student.convolutions[-1].weight, start)  # type: ignore[arg-type]
    assert torch.equal(model.teacher.convolutions[0].weight, teacher.convolutions[0].weight)  # type: ignore[arg-type]
    assert model.student.out_channels == 2 * FEATURES


def test_the_command_publishes_a_row_per_variant_and_trains_nothing_twice(
    slim: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = save_few_tiles(tmp_path / "raw")
    monkeypatch.setattr(held_out, "CURVE_DEFECTS", 4)
    monkeypatch.setattr(held_out, "CALIBRATION_DEFECTS", 4)
    teacher = save_slim_teacher(tmp_path / "teacher.safetensors")
    monkeypatch.setattr(learning, "shipped_teacher", lambda _size: teacher)
    options = [
        "--raw",
        str(root),
        "--work",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path / "learning.json"),
    ]
    options += [
        "--penalty-images",
        "3",
        "--seconds",
        "5",
        "--seeds",
        "3",
        "--variants",
        "plain",
        "falling_rate",
    ]
    monkeypatch.setattr(sys, "argv", ["learning", *options])
    learning.main()
    figures = read_json(tmp_path / "learning.json")["figures"]
    cells, others = pivoted("learning", figures)
    assert others == []
    assert {row for row, _ in cells} == {"plain", "falling_rate"}
    assert 0 <= figures["plain_tiles"] <= 1
    monkeypatch.setattr(learning, "train_variant", None)
    learning.main()
    assert read_json(tmp_path / "learning.json")["figures"] == figures


def test_every_variant_has_a_row_in_the_docs() -> None:
    assert list(PIVOTS["learning"].rows) == list(VARIANTS)
