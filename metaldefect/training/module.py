"""Base class of trained modules: counts steps, limits gradients, and may average the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from metaldefect.training.average import WeightAverage


class Trainee(pl.LightningModule):
    """A Lightning module that `fit` can train.

    Attributes:
        model: the model to train.
        step: optimisation steps done so far; `fit` counts them, and checkpoints save them.
        average: moving average of `model`, updated after each step; None: no average.
        max_gradient_norm: gradients are scaled down to this norm; None: only checked to be finite.
    """

    model: torch.nn.Module
    average: WeightAverage | None
    max_gradient_norm: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.average = None

    def content(self) -> Mapping[str, Any]:
        """Everything that determines the training except start weights and batches, see `resume_key`."""
        raise NotImplementedError

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        self.limit_gradients(p for group in optimizer.param_groups for p in group["params"])

    def limit_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Clip the gradients to `max_gradient_norm`.

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
    """Error message, with advice, for a number of a training step that is not finite."""
    return (
        f"{name} became {value} at step {step}: training stopped, the last good checkpoint is kept; "
        "lower the learning rate, or set METALDEFECT_PRECISION=float32"
    )
