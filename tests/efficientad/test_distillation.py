import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from metaldefect.backbones import Backbone
from metaldefect.efficientad.distillation import DistillationModule, distil, evaluate
from metaldefect.efficientad.distillation_config import DistillationConfig
from metaldefect.efficientad.distillation_data import (
    CropBatches,
    DistillationImages,
    distillation_images,
    scenes,
)
from metaldefect.efficientad.teacher_targets import PatchFeatures, channel_statistics, pooling_kernel
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.ingest.natural import natural_photographs
from metaldefect.training.trainer import LAST


class TinyBackbone(torch.nn.Module):
    """Two convolutions at strides 8 and 16, enough to distil from."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.fine = torch.nn.Conv2d(3, 6, 8, stride=8)
        self.coarse = torch.nn.Conv2d(6, 10, 2, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.coarse(self.fine(images))


def tiny_features() -> PatchFeatures:
    return PatchFeatures(Backbone(TinyBackbone(), ("fine", "coarse"), (0.5,) * 3, (0.5,) * 3))


def tiny_images() -> DistillationImages:
    rng = np.random.default_rng(0)
    return DistillationImages(
        rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8),
        rng.integers(0, 256, (4, 64, 64), dtype=np.uint8),
        range(4),
        range(4),
    )


CONFIG = DistillationConfig(image_size=32, batch_size=2, steps=4, checkpoint_steps=2, warmup_steps=1)


def test_one_convolution_is_patchcores_unfold_and_two_poolings() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 5, 6, 7)
    patches = functional.unfold(features, 3, padding=1)[0].T  # [positions, channels * 9]
    pooled = functional.adaptive_avg_pool1d(functional.adaptive_avg_pool1d(patches[:, None], 1024), 12)[:, 0]
    found = functional.conv2d(features, pooling_kernel(5, 12), padding=1)[0].flatten(1).T
    torch.testing.assert_close(found, pooled, atol=1e-5, rtol=1e-4)


def test_channel_statistics_keep_a_small_variance_beside_a_large_mean() -> None:
    rng = np.random.default_rng(0)
    values = 1e4 + rng.normal(size=(6, 2, 8, 8))
    mean, std = channel_statistics(torch.from_numpy(part).float() for part in np.split(values, 3))
    stored = values.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(mean.flatten(), stored.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std.flatten(), stored.std(axis=(0, 2, 3)), rtol=1e-4)


def test_crops_are_a_function_of_seed_and_step() -> None:
    batches = CropBatches(tiny_images(), 32, 2, 0.5, 0.5, seed=0)
    first = batches.batch(3)
    assert first.shape == (2, 3, 64, 64)
    assert torch.equal(first, batches.batch(3))
    assert not torch.equal(first, batches.batch(4))


def test_every_twentieth_group_is_held_out_with_all_its_images() -> None:
    crops = [number // 3 for number in range(135)]  # three crops of each of 45 photographs
    numbers = np.arange(135, dtype=np.uint8)[:, None, None]
    nothing = np.empty((0, 1, 1, 3), np.uint8)
    training, held_out = DistillationImages(nothing, numbers, [], crops).split()
    assert [int(image[0, 0]) for image in held_out.metal] == [0, 1, 2, 60, 61, 62, 120, 121, 122]
    assert len(training.metal) == 126
    assert not set(training.metal_groups) & set(held_out.metal_groups)
    assert len(training.natural) == len(held_out.natural) == 0


def test_a_single_photograph_trains_and_none_is_unseen() -> None:
    images = DistillationImages(tiny_images().natural, tiny_images().metal, ["astronaut"] * 4, [0] * 4)
    training, held_out = images.split()
    assert (len(training.natural), len(training.metal)) == (4, 4)
    statistics = (torch.zeros(1, 384, 1, 1), torch.ones(1, 384, 1, 1))
    teacher = PatchDescriptionNetwork("S").eval()
    assert evaluate(teacher, held_out, tiny_features(), statistics, 32) == {}


def test_turned_and_recoded_copies_are_one_scene() -> None:
    rng = np.random.default_rng(0)
    first, second = (
        np.kron(rng.integers(0, 256, (16, 16)), np.ones((4, 4))).astype(np.uint8) for _ in range(2)
    )
    found = scenes(np.stack([first, second, np.rot90(first), (first * 0.9 + 10).astype(np.uint8)]))
    assert found == [0, 1, 0, 0]


def test_crops_of_one_packaged_photograph_are_never_on_both_sides() -> None:
    natural = natural_photographs(None, 64, 64)
    metal = np.zeros((0, 64, 64), np.uint8)
    training, held_out = distillation_images(natural, metal, 64).split()
    assert len(held_out.natural) > 0
    assert not set(training.natural_groups) & set(held_out.natural_groups)


def test_loss_and_explained_variance_are_those_of_all_maps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    torch.manual_seed(0)
    images = tiny_images()
    teacher, features = PatchDescriptionNetwork("S").eval(), tiny_features()
    statistics = (torch.full((1, 384, 1, 1), 0.1), torch.full((1, 384, 1, 1), 0.5))
    found = evaluate(teacher, images, features, statistics, 32)
    predictions, targets = [], []
    for group in (images.natural.transpose(0, 3, 1, 2), np.repeat(images.metal[:, None], 3, axis=1)):
        large = torch.from_numpy(np.ascontiguousarray(group)).float() / 255
        small = functional.interpolate(large, (32, 32), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        with torch.inference_mode():
            predictions.append(teacher((small - mean) / std).numpy())
            targets.append((features(large, predictions[-1].shape[-2:]).numpy() - 0.1) / 0.5)
    prediction, target = np.concatenate(predictions), np.concatenate(targets)
    residual = target - prediction
    assert found["loss"] == pytest.approx((residual**2).mean(), rel=1e-3)
    assert found["loss_metal"] == pytest.approx((residual[4:] ** 2).mean(), rel=1e-3)
    ratio = residual.var(axis=(0, 2, 3)) / target.var(axis=(0, 2, 3))
    assert found["explained_variance"] == pytest.approx((1 - ratio).mean(), rel=1e-3)


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_resumed_distillation_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    whole = distil(tiny_images(), tiny_features(), CONFIG, tmp_path / "whole")
    original = DistillationModule.training_step

    def killed(module: DistillationModule, batch: torch.Tensor, index: int) -> torch.Tensor:
        if module.step == 3:
            raise Killed
        return original(module, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationModule, "training_step", killed)
        with pytest.raises(Killed):
            distil(tiny_images(), tiny_features(), CONFIG, tmp_path / "stopped")
    resumed = distil(tiny_images(), tiny_features(), CONFIG, tmp_path / "stopped")
    for name, tensor in whole.teacher.state_dict().items():
        assert torch.equal(resumed.teacher.state_dict()[name], tensor), name
    assert torch.equal(resumed.target_mean, whole.target_mean)
    assert resumed.history == whole.history
    assert resumed.images_seen == 8
    assert [leg["from_step"] for leg in whole.legs] == [0]
    assert [leg["from_step"] for leg in resumed.legs] == [0, resumed.steps - 2]
    assert resumed.legs[1]["threads"] == torch.get_num_threads()


SCRIPT = """
import sys
from pathlib import Path
from tests.efficientad.test_distillation import distil, medium, tiny_features, tiny_images
distil(tiny_images(), tiny_features(), medium(), Path(sys.argv[1]))
"""


def medium() -> DistillationConfig:
    return CONFIG.model_copy(update={"size": "M", "steps": 12, "checkpoint_steps": 1})


def test_a_distillation_of_pdn_m_survives_being_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    state = tmp_path / LAST
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not state.is_file():
        assert process.poll() is None, "the distillation ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert torch.load(state, weights_only=True)["step"] < 12
    resumed = distil(tiny_images(), tiny_features(), medium(), tmp_path)
    whole = distil(tiny_images(), tiny_features(), medium(), None)
    for name, tensor in whole.teacher.state_dict().items():
        torch.testing.assert_close(resumed.teacher.state_dict()[name], tensor, msg=name)
    assert resumed.images_seen == 24


def test_the_time_limit_counts_processor_time_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = itertools.count(step=2 * torch.get_num_threads())
    monkeypatch.setattr(time, "process_time", lambda: next(reading))
    config = CONFIG.model_copy(update={"steps": None, "seconds": 5.0})
    distilled = distil(tiny_images(), tiny_features(), config, None)
    # Two seconds a step on every thread: the third step ends beyond the limit.
    assert distilled.steps == 3
    assert distilled.seconds == 6.0
