"""How a tokenizer is trained, as typed settings."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from metaldefect.config import Config

SLOWEST = 0.999  # smallest `codebook_decay` at which tokens nearly keep their meaning
PerceptualName = Literal["vgg", "alex", "squeeze", "efficientnet_lite0"]


class VQTrainingSettings(Config):
    """What a person chooses; weights multiply the loss terms they are named after.

    `schedule`: how the learning rates go on after the warm-up: down to the last step, or constant for a
    training without a fixed end. `codebook_decay`: decay of the running mean of encoder outputs that each
    entry follows; None: the codebook loss trains the entries, as in LlamaGen.
    `mode`: `full` trains everything. `decoder_only` keeps the tokens as they are. `slow_codebook` trains the
    decoder too, and lets the entries follow the encoder's outputs, with a `codebook_decay` near 1: tokens
    nearly keep their meaning, so a MaskGIT that knows them can go on.
    """

    steps: PositiveInt
    learning_rate: PositiveFloat = 2e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 50
    mode: Literal["full", "decoder_only", "slow_codebook"] = "full"
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

    @model_validator(mode="after")
    def slow_is_slow(self) -> Self:
        """A codebook that is to move slowly needs a decay near 1."""
        if self.mode == "slow_codebook" and (self.codebook_decay or 0.0) < SLOWEST:
            raise ValueError(
                f"mode: slow_codebook needs a codebook_decay of at least {SLOWEST}, got {self.codebook_decay}"
            )
        return self


class VQTrainingConfig(VQTrainingSettings):
    """All that decides a training.

    `data_initialised_codebook`: the entries start from the first batch's encoder outputs.
    """

    data_initialised_codebook: bool = False


class PretrainSettings(Config):
    """What determines base weights besides the time spent on them.

    `images`: to train on, with a learning rate that falls to zero; None: as many as the time allows, at a
    constant rate. `discriminator_start`: images after which the adversarial loss starts.
    """

    tokenizer: str = "vq16_small"
    image_size: int = Field(default=256, ge=16)
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = 3e-4
    mode: Literal["full", "decoder_only"] = "full"
    images: PositiveInt | None = None
    discriminator_start: NonNegativeInt = 4000
    checkpoint_steps: PositiveInt = 25
    seed: NonNegativeInt = 0

    @property
    def steps(self) -> int | None:
        """Steps of the training, if its images are numbered."""
        return None if self.images is None else -(-self.images // self.batch_size)
