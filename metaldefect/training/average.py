"""The exponential moving average of a model's weights, updated during training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

Tensors = list[Tensor] | tuple[Tensor, ...]


class WeightAverage(AveragedModel):
    """torch's averaged model with a decay that warms up as (1 + n) / (10 + n) after n updates.

    With a constant decay of 0.999, the average after a few hundred steps would be mostly the random start.
    The first update copies the weights. `average.module` is the averaged model; as a submodule of the
    Lightning module it is part of checkpoints.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        def warmed_up(averages: Tensors, weights: Tensors, updates: Tensor | int) -> None:
            n = int(updates) + 1
            rate = 1.0 - min(decay, (1 + n) / (10 + n))
            torch._foreach_lerp_(averages, weights, rate)

        super().__init__(model, multi_avg_fn=torch.no_grad()(warmed_up))
        self.requires_grad_(False)

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Overwrite the model's parameters with the averaged ones."""
        for parameter, averaged in zip(model.parameters(), self.module.parameters(), strict=True):
            parameter.copy_(averaged)
