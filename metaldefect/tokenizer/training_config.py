"""How a tokenizer is trained, as typed settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from metaldefect.config import Config

PerceptualName = Literal["vgg", "alex", "squeeze", "efficientnet_lite0"]


class VQTrainingSettings(Config):
    """What a person chooses; weights multiply the loss terms they are named after.

    `schedule`: how the learning rates go on after the warm-up: down to the last step, or constant for a
    training without a fixed end. `codebook_decay`: decay of the running mean of encoder outputs that each
    entry follows; None: the codebook loss trains the entries, as in LlamaGen.
    """

    steps: PositiveInt
    learning_rate: PositiveFloat = 2e-4
    schedule: Literal["cosine", "constant"] = "cosine"
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
    """What determines base weights besides the time spent on them.

    `discriminator_start`: images after which the adversarial loss starts.
    """

    tokenizer: str = "vq16_small"
    image_size: int = Field(default=256, ge=16)
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = 3e-4
    mode: Literal["full", "decoder_only"] = "full"
    discriminator_start: NonNegativeInt = 4000
    checkpoint_steps: PositiveInt = 25
    seed: NonNegativeInt = 0
