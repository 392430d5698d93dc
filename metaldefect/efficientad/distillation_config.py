"""How a teacher is distilled, as typed settings."""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from metaldefect.config import Config
from metaldefect.efficientad.config import Size


class DistillationSettings(Config):
    """What a person chooses.

    Attributes:
        size: the PDN, `S` or `M`.
        image_size: side of the PDN's crops; the backbone sees twice this size.
        batch_size: images per step.
        learning_rate: Adam's at the start; falls to zero along a cosine.
        steps: training steps; None or 0: none are asked for.
        checkpoint_steps: steps between checkpoints.
    """

    size: Size = "S"
    image_size: PositiveInt = 128
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-3
    steps: NonNegativeInt | None = None
    checkpoint_steps: PositiveInt = 100


class DistillationConfig(DistillationSettings):
    """How to distil a teacher; saved next to its weights.

    Attributes:
        weight_decay: Adam's L2.
        seconds: limit of computing time over all resumed runs, see `ComputingTime`; None for no limit.
            It decides the length if `steps` is None.
        warmup_steps: steps of linear warm-up.
        metal_share: probability of a metal image if both kinds are available.
        grey_share: probability that a natural image is turned grey.
        seed: of the weights and the crops.
    """

    weight_decay: float = Field(default=1e-5, ge=0)
    seconds: NonNegativeFloat | None = None
    warmup_steps: NonNegativeInt = 50
    metal_share: float = Field(default=0.5, ge=0, le=1)
    grey_share: float = Field(default=0.5, ge=0, le=1)
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def there_is_an_end(self) -> Self:
        """A training without a length would never end."""
        if not self.steps and self.seconds is None:
            raise ValueError("distillation needs a number of steps or a time limit")
        return self
