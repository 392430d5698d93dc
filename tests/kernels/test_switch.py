"""Training on a CPU chooses the kernels; everything else has the plain layers."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaldefect.kernels.switch import HasCpuKernel, cpu_kernels
from metaldefect.training.data import SampledBatches
from metaldefect.training.module import Trainee
from metaldefect.training.trainer import fit


class Layer(HasCpuKernel, nn.Conv2d):
    """A layer that the switch reaches."""


class Recorder(Trainee):
    """Notes at each step whether its layer uses its kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Layer(1, 1, 3)
        self.seen: list[bool] = []

    def content(self) -> Mapping[str, Any]:
        return {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.01)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen.append(self.model.cpu_kernel)
        loss = self.model(batch).square().mean()
        self.log("loss", loss.detach())
        return loss


def test_the_trainer_uses_the_kernels_on_a_cpu_and_leaves_the_plain_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("METALDEFECT_DEVICE", "cpu")
    module = Recorder()
    batches = SampledBatches(torch.randn(4, 1, 8, 8), 2, 0)
    fit(module, batches, steps=2, epoch_steps=2, seed=0, checkpoint_directory=None)
    assert module.seen == [True] * 2
    assert not module.model.cpu_kernel


def test_neither_train_nor_eval_chooses_the_kernel() -> None:
    layer = Layer(1, 1, 3)
    assert not layer.train().cpu_kernel
    with cpu_kernels(layer, enabled=True):
        with cpu_kernels(layer, enabled=False):
            assert not layer.cpu_kernel
        assert layer.eval().cpu_kernel
    assert not layer.cpu_kernel


def test_the_switch_is_restored_after_an_error() -> None:
    layer = Layer(1, 1, 3)

    def fail() -> None:
        with cpu_kernels(layer, enabled=True):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not layer.cpu_kernel
