"""Training on a CPU chooses the kernels; everything else has the plain layers."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from metaldefect.kernels.switch import cpu_kernels
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.lightning_module import MaskGITLightning
from metaldefect.maskgit.model import Block, MaskGIT
from metaldefect.maskgit.training_config import MaskGITTrainingConfig
from metaldefect.training.data import SampledBatches
from metaldefect.training.trainer import fit

SHAPE = MaskGITConfig(dim=32, depth=2, heads=2, classes=2, codebook_size=11, grid=4)


class Recorder(MaskGITLightning):
    """Notes at each step whether the blocks use their kernel."""

    def __init__(self) -> None:
        super().__init__(MaskGIT(SHAPE), MaskGITTrainingConfig(steps=2))
        self.seen: list[bool] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.seen += [layer.cpu_kernel for layer in self.model.modules() if isinstance(layer, Block)]
        return super().training_step(batch, index)


def test_the_trainer_uses_the_kernels_on_a_cpu_and_leaves_the_plain_layers() -> None:
    module = Recorder()
    data = TensorDataset(torch.randint(0, 11, (4, 4, 4)), torch.zeros(4, dtype=torch.long))
    fit(module, SampledBatches(data, 2, 0), steps=2, epoch_steps=2, seed=0, checkpoint_directory=None)
    assert module.seen == [True] * 4
    assert not any(layer.cpu_kernel for layer in module.model.modules() if isinstance(layer, Block))


def test_the_switch_is_restored_after_an_error() -> None:
    model = MaskGIT(SHAPE)

    def fail() -> None:
        with cpu_kernels(model, enabled=True):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not any(layer.cpu_kernel for layer in model.modules() if isinstance(layer, Block))
