"""How the independent judge is trained, as typed settings."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from metaldefect.config import Config


class JudgeSettings(Config):
    """Settings of the classifier that judges drawn images independently of their selection.

    Attributes:
        image_size: side of the images that it sees, in pixels; a multiple of 32.
        steps: of training at most.
        batch_size: images per step.
        learning_rate: highest of the schedule.
        warmup_steps: steps until the learning rate is reached.
        train_images: training images at most, spread over the classes; they stay in memory.
        check_steps: steps between two looks at the validation images.
        patience: looks without an improvement after which training stops.
    """

    image_size: int = Field(default=128, ge=32, multiple_of=32)
    steps: PositiveInt = 600
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 2e-3
    warmup_steps: NonNegativeInt = 50
    train_images: PositiveInt = 6000
    check_steps: PositiveInt = 50
    patience: PositiveInt = 6
