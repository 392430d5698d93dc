"""What the trainer trains: a Lightning module that counts its steps and may keep averaged weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from metaldefect.training.average import WeightAverage


class Trainee(pl.LightningModule):
    """What `fit` trains.

    Attributes:
        model: what is trained.
        step: optimisation steps done so far; `fit` counts them, checkpoints carry them.
        average: the moving average of `model`, updated after each step; None: none is kept.
        max_gradient_norm: gradients are scaled down to this norm; None: only checked.
    """

    model: torch.nn.Module
    average: WeightAverage | None
    max_gradient_norm: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.average = None

    def content(self) -> Mapping[str, Any]:
        """What decides on the training besides the start weights and the batches, by name (`resume_key`)."""
        raise NotImplementedError

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        self.limit_gradients(p for group in optimizer.param_groups for p in group["params"])

    def limit_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Clip the gradients to `max_gradient_norm`; refuse those that are not finite.

        Raises:
            FloatingPointError: a gradient is not finite.
        """
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if not bool(norm.isfinite()):
            raise FloatingPointError(not_finite("the gradient's norm", float(norm), self.step))
        if self.max_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, self.max_gradient_norm, norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["step"] = self.step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["step"]


def not_finite(name: str, value: float, step: int) -> str:
    """What to say, and advise, when a number of a training step is not finite."""
    return (
        f"{name} became {value} at step {step}: training stopped, the last good checkpoint is kept; "
        "lower the learning rate, or set METALDEFECT_PRECISION=float32"
    )
