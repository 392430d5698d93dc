"""How a tokenizer is trained, as typed settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from metaldefect.config import Config

PerceptualName = Literal["vgg", "alex", "squeeze", "efficientnet_lite0"]


class VQTrainingSettings(Config):
    """What a person chooses; weights multiply the loss terms they are named after.

    `codebook_decay`: decay of the running mean of encoder outputs that each entry follows; None: the
    codebook loss trains the entries, as in LlamaGen.
    """

    steps: PositiveInt
    learning_rate: PositiveFloat = 2e-4
    warmup_steps: NonNegativeInt = 50
    mode: Literal["full", "decoder_only"] = "full"
    perceptual: PerceptualName = "squeeze"
    l1_weight: float = 1.0
    perceptual_weight: float = 1.0
    ssim_weight: float = 0.0
    edge_weight: float = 1.0
    adversarial_weight: float = 0.1
    discriminator_start: NonNegativeInt = 0
    discriminator_channels: PositiveInt = 32
    entropy_ratio: float = 0.0
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    codebook_decay: float | None = Field(default=None, gt=0, lt=1)


class VQTrainingConfig(VQTrainingSettings):
    """All that decides a training.

    `data_initialised_codebook`: the entries start from the first batch's encoder outputs.
    """

    data_initialised_codebook: bool = False


class PretrainSettings(Config):
    """Settings that determine base weights; the defaults made the shipped ones."""

    natural: Path | None = None
    metal: PositiveInt = 1400
    tokenizer: str = "vq16_small"
    size: int = Field(default=256, ge=16)
    steps: PositiveInt = 1500
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = 4e-4
    seed: NonNegativeInt = 0

    def command(self) -> str:
        """The command that trains with these settings; folders appear by name only."""
        words = ["metaldefect", "pretrain-tokenizer"]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.default:
                shown = value.name if isinstance(value, Path) else str(value)
                words += [f"--{name.replace('_', '-')}", shown]
        return shlex.join(words)
