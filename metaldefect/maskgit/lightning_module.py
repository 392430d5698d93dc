"""Lightning module that trains MaskGIT on token grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from metaldefect.maskgit.loss import masked_cross_entropy
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.soft_targets import SoftTargets
from metaldefect.maskgit.training_config import MaskGITTrainingConfig
from metaldefect.maskgit.training_masks import training_mask
from metaldefect.training.average import WeightAverage
from metaldefect.training.module import Trainee
from metaldefect.training.schedule import warmup_constant, warmup_cosine


class MaskGITLightning(Trainee):
    """Train on batches of tokens, labels, and, if they are known, the cells of defects (see `training_mask`).

    They are `int [B, grid, grid]`, `int [B]` and `bool [B, grid, grid]`.
    """

    model: MaskGIT
    average: WeightAverage
    max_gradient_norm = 1.0

    def __init__(
        self, model: MaskGIT, config: MaskGITTrainingConfig, soft: SoftTargets | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.soft = soft
        self.average = WeightAverage(model, config.ema_decay)

    def on_fit_start(self) -> None:
        if self.soft is not None:
            self.soft = SoftTargets(*(part.to(self.device) for part in self.soft))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # Decay only the matrices of the blocks, not embeddings, norms and biases
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            decayed = parameter.dim() == 2 and "emb" not in name and "reg_tokens" not in name
            (matrices if decayed else others).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        if self.config.schedule == "cosine":
            scheduler = warmup_cosine(optimizer, self.config.steps, self.config.warmup_steps)
        else:
            scheduler = warmup_constant(optimizer, self.config.warmup_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def content(self) -> dict[str, Any]:
        """The settings, and which codes look alike."""
        return {"settings": self.config, "soft_targets": self.soft}

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        tokens, labels = batch[0].flatten(1).long(), batch[1].long()
        shape = self.model.config
        defects = batch[2] if len(batch) > 2 else None
        shares = self.config.rectangle_share, defects, self.config.hidden_defect_share
        mask = training_mask(len(tokens), shape.grid, *shares).to(tokens.device)
        hidden_share = self.config.label_dropout if self.config.conditional else 1.0
        dropped = torch.rand(len(labels)).to(labels.device) < hidden_share
        labels = labels.masked_fill(dropped, shape.null_label)
        hidden = self.model.hidden(tokens.masked_fill(mask, shape.mask_id), labels)
        loss, parts = masked_cross_entropy(
            hidden,
            self.model.head,
            tokens,
            mask,
            label_smoothing=self.config.label_smoothing,
            unmasked_weight=self.config.unmasked_weight,
            soft_weight=self.config.soft_weight,
            soft=self.soft,
        )
        self.log_dict({"loss": loss.detach(), **parts})
        return loss
