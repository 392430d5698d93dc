"""How a detector is trained and calibrated, as typed settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from metaldefect.config import Config

Size = Literal["S", "M"]


class TrainingSettings(Config):
    """How to train EfficientAD; the defaults are the paper's.

    Attributes:
        steps: optimisation steps; the learning rate falls tenfold after 95 % of them.
        batch_size: images per step.
        learning_rate: Adam's.
        hard_quantile: share of an image's squared differences that the hard feature loss leaves out. With a
            smaller share, a short training learns faster.
        weight_decay: Adam's L2.
        checkpoint_steps: steps per epoch; a state is saved after each, and training resumes there.
    """

    steps: PositiveInt
    batch_size: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-4
    weight_decay: float = Field(default=1e-5, ge=0)
    hard_quantile: float = Field(default=0.999, ge=0, lt=1)
    checkpoint_steps: PositiveInt = 100


class TrainingConfig(TrainingSettings):
    """All numbers of a training; `seed`: of the weights, the data order, the augmentation and the dropout."""

    seed: NonNegativeInt = 0


class ImageSettings(Config):
    """What a detector sees.

    Attributes:
        image_size: side of the square that images are resized to, px.
        padding: padded networks describe the border too; unpadded ones are faster.
        penalty: whether natural images are kept from being imitated.
        natural: folder of natural images for the penalty; None: packaged photographs.
        penalty_images: natural images that the penalty uses.
    """

    image_size: int = Field(default=256, ge=128)
    padding: bool = True
    penalty: bool = True
    natural: Path | None = None
    penalty_images: PositiveInt = 128


class CalibrationSettings(Config):
    """How a trained detector is set up.

    Attributes:
        threshold_quantile: the threshold aims at this share of good images below it.
        residual_metric: `paper` measures the student's errors as the paper does; `choose` may measure them
            with their covariance on normal images, if inserted defects show that it is better.
    """

    threshold_quantile: float = Field(default=0.99, gt=0, le=1)
    residual_metric: Literal["paper", "choose"] = "paper"
