"""What the trainer trains: a Lightning module that counts its steps and may keep averaged weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from metaldefect.training.average import WeightAverage


class Trainee(pl.LightningModule):
    """What `fit` trains.

    Attributes:
        step: optimisation steps done so far; `fit` counts them, checkpoints carry them.
        average: the moving average of `model`, updated after each step; None: none is kept.
    """

    model: torch.nn.Module
    average: WeightAverage | None

    def __init__(self) -> None:
        super().__init__()
        self.average = None
        self.step = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["step"] = self.step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["step"]
