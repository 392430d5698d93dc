import itertools
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from metaldefect.backbones import Backbone
from metaldefect.efficientad.distillation import (
    DistillationConfig,
    DistillationImages,
    Distiller,
    crops,
)
from metaldefect.efficientad.teacher_targets import PatchFeatures, channel_statistics, pooling_kernel
from metaldefect.errors import UserError


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
    images = tiny_images()
    first = crops(images, CONFIG, 3)
    assert first.shape == (2, 3, 64, 64)
    assert torch.equal(first, crops(images, CONFIG, 3))
    assert not torch.equal(first, crops(images, CONFIG, 4))


def test_held_out_images_are_every_twentieth() -> None:
    numbers = np.arange(45, dtype=np.uint8)[:, None, None]
    training, held_out = DistillationImages(np.empty((0, 1, 1, 3), np.uint8), numbers).split()
    assert held_out.metal.ravel().tolist() == [0, 20, 40]
    assert len(training.metal) == 42


def test_a_resumed_distillation_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    whole = Distiller(tiny_images(), tiny_features(), CONFIG).fit(tmp_path / "whole.ckpt")

    stopped = Distiller(tiny_images(), tiny_features(), CONFIG)
    original = stopped._train_step

    def killed(progress: float) -> torch.Tensor:
        if stopped.step == 3:
            raise KeyboardInterrupt
        return original(progress)

    monkeypatch.setattr(stopped, "_train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(tmp_path / "state.ckpt")
    resumed = Distiller(tiny_images(), tiny_features(), CONFIG).fit(tmp_path / "state.ckpt")
    for name, tensor in whole.teacher.state_dict().items():
        assert torch.equal(resumed.teacher.state_dict()[name], tensor), name
    assert resumed.images_seen == 8
    assert [leg["from_step"] for leg in whole.legs] == [0]
    assert [leg["from_step"] for leg in resumed.legs] == [0, resumed.steps - 2]
    assert resumed.legs[1]["threads"] == torch.get_num_threads()


SCRIPT = """
import sys
from pathlib import Path
from tests.efficientad.test_distillation import Distiller, medium, tiny_features, tiny_images
Distiller(tiny_images(), tiny_features(), medium()).fit(Path(sys.argv[1]))
"""


def medium() -> DistillationConfig:
    return replace(CONFIG, size="M", steps=12, checkpoint_steps=1)


def test_a_distillation_of_pdn_m_survives_being_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")
    state = tmp_path / "state.ckpt"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(state)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not state.is_file():
        assert process.poll() is None, "the distillation ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert torch.load(state, weights_only=True)["step"] < 12
    resumed = Distiller(tiny_images(), tiny_features(), medium()).fit(state)
    whole = Distiller(tiny_images(), tiny_features(), medium()).fit()
    for name, tensor in whole.teacher.state_dict().items():
        torch.testing.assert_close(resumed.teacher.state_dict()[name], tensor, msg=name)
    assert resumed.images_seen == 24


def test_the_time_limit_counts_processor_time_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    distiller = Distiller(tiny_images(), tiny_features(), replace(CONFIG, steps=None, seconds=5.0))
    reading = itertools.count(step=2 * torch.get_num_threads())
    monkeypatch.setattr(time, "process_time", lambda: next(reading))
    distilled = distiller.fit()
    # Two seconds a step on every thread: the third step ends beyond the limit.
    assert distilled.steps == 3
    assert distilled.seconds == 6.0


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    distiller = Distiller(tiny_images(), tiny_features(), CONFIG)
    distiller.save(tmp_path / "state.ckpt")
    other = Distiller(tiny_images(), tiny_features(), replace(CONFIG, batch_size=3))
    with pytest.raises(UserError, match=r"batch_size.*\(2, 3\).*delete it to start afresh"):
        other.load(tmp_path / "state.ckpt")
    base = (distiller.teacher, (torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)))
    from_weights = Distiller(tiny_images(), tiny_features(), CONFIG, base)
    with pytest.raises(UserError, match=r"other settings \{'base': \(None, "):
        from_weights.load(tmp_path / "state.ckpt")
