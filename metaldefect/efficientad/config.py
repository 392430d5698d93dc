"""How a detector is trained and calibrated, as typed settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from metaldefect.config import Config
from metaldefect.images import Channels, ImageSize, height_and_width

Size = Literal["S", "M"]
AUTO: Final = "auto"  # found from the images
SMALLEST_SIDE = 128  # px; below, the autoencoder's last maps vanish


def read_size(value: Any) -> Any:
    """Turn `256` or `160x400` (height x width) into numbers; leave the rest to the field's type."""
    if not isinstance(value, str) or value == AUTO:
        return value
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise ValueError(f"{value!r} is no size: write 256, or height x width as 160x400")
    numbers = tuple(int(side) for side in sides)
    return numbers[0] if len(numbers) == 1 else numbers


def check_size(size: Any) -> Any:
    """Check that the networks take it; two equal sides become one number."""
    if size == AUTO:
        return size
    height, width = height_and_width(size)
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(f"{height} x {width} px: at least {SMALLEST_SIDE} per side are needed")
    return height if height == width else (height, width)


def read_channels(value: Any) -> Any:
    """Turn `"1"` and `"3"` of a command line into numbers."""
    return int(value) if value in ("1", "3") else value


SizeSetting = Annotated[ImageSize, BeforeValidator(read_size), AfterValidator(check_size)]


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


class NetworkSettings(Config):
    """Choices about the networks and their penalty images.

    Attributes:
        padding: padded networks describe the border too; unpadded ones are faster.
        penalty: whether natural images are kept from being imitated.
        natural: folder of natural images for the penalty; None: packaged photographs.
        penalty_images: natural images that the penalty uses.
    """

    padding: bool = True
    penalty: bool = True
    natural: Path | None = None
    penalty_images: PositiveInt = 128


class ImageSettings(NetworkSettings):
    """What a detector sees.

    Attributes:
        image_size: side of the square that images are resized to, or height and width, px.
    """

    image_size: SizeSetting = 256


class AutoImageSettings(NetworkSettings):
    """`ImageSettings` whose size may be found from the training images, and the channels.

    Attributes:
        image_size: as there, or `auto`.
        channels: 1, colour becomes grey; or 3, colours are kept and grey images have three equal channels; or
            `auto`.
    """

    image_size: Annotated[
        ImageSize | Literal["auto"], BeforeValidator(read_size), AfterValidator(check_size)
    ] = AUTO
    channels: Annotated[Channels | Literal["auto"], BeforeValidator(read_channels)] = AUTO


class CalibrationSettings(Config):
    """How a trained detector is set up.

    Attributes:
        threshold_quantile: the threshold aims at this share of good images below it.
        residual_metric: `paper` measures the student's errors as the paper does; `choose` may measure them
            with their covariance on normal images, if inserted defects show that it is better.
    """

    threshold_quantile: float = Field(default=0.99, gt=0, le=1)
    residual_metric: Literal["paper", "choose"] = "paper"
