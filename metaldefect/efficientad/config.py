"""How a detector is trained and calibrated, as typed settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from metaldefect.config import ADDED_LATER, Config
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
        image_size: as there, or `auto`, see `size_choice`.
        channels: 1, colour becomes grey; or 3, colours are kept and grey images have three equal channels; or
            `auto`.
    """

    image_size: Annotated[
        ImageSize | Literal["auto"], BeforeValidator(read_size), AfterValidator(check_size)
    ] = AUTO
    channels: Annotated[Channels | Literal["auto"], BeforeValidator(read_channels)] = AUTO


def read_share(value: Any) -> Any:
    """Turn `1%`, `1 %` or `0.01` into a share in [0, 1); leave what is no text to the field's type."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise ValueError(f"{value!r} is no share: write 1% or 0.01") from error
    if not 0 <= share < 1:
        raise ValueError(f"{value!r} is no share below 1: write 1% or 0.01")
    return share


Share = Annotated[float, BeforeValidator(read_share), Field(ge=0, lt=1)]
USUAL_RATE = 0.01  # of false alarms
RATE, COSTS = "false_alarms", ("cost_miss", "cost_false_alarm")  # the keys of a target
OLDER_KEY = "threshold_quantile"  # says the same as `RATE`


class Target(Config):
    """What a threshold is chosen for: a rate of false alarms, or the least expected cost.

    Attributes:
        false_alarms: share of good images that may be flagged; None: 1 %, unless both costs are given.
        cost_miss: of a defect that passes, in any currency.
        cost_false_alarm: of a good image that is flagged, in the same currency.
        defect_share: share of the line's images that show a defect, for the expected cost.
    """

    false_alarms: Annotated[Share | None, ADDED_LATER] = None
    cost_miss: Annotated[PositiveFloat | None, ADDED_LATER] = None
    cost_false_alarm: Annotated[PositiveFloat | None, ADDED_LATER] = None
    defect_share: Annotated[Share, Field(gt=0), ADDED_LATER] = 0.01

    @model_validator(mode="after")
    def one_target(self) -> Self:
        """Both costs or none, and no rate beside them."""
        if (self.cost_miss is None) != (self.cost_false_alarm is None):
            raise ValueError(
                "give both --cost-miss and --cost-false-alarm (cost_miss, cost_false_alarm), or neither"
            )
        if self.costs is not None and self.false_alarms is not None:
            raise ValueError("give either false_alarms, or cost_miss and cost_false_alarm")
        return self

    def record(self) -> dict[str, float]:
        """The keys of the target, for a JSON file; `Target(**record)` is the same target."""
        known: dict[str, float] = self.model_dump(include=set(Target.model_fields), exclude_none=True)
        return known if self.costs else known | {RATE: self.rate}

    @property
    def costs(self) -> tuple[float, float] | None:
        """Cost of a miss and of a false alarm, or None."""
        if self.cost_miss is None or self.cost_false_alarm is None:
            return None
        return self.cost_miss, self.cost_false_alarm

    @property
    def rate(self) -> float:
        """The rate of false alarms to aim at; a target of costs falls back on it without defects to weigh."""
        return USUAL_RATE if self.false_alarms is None else self.false_alarms


class CalibrationSettings(Target):
    """How a trained detector is set up: the threshold's target, and the residual's metric.

    `threshold_quantile: 0.99`, as older files have it, is read as `false_alarms: 0.01`.

    Attributes:
        residual_metric: `paper` measures the student's errors as the paper does; `choose` may measure them
            with their covariance on normal images, if inserted defects show that it is better.
    """

    residual_metric: Literal["paper", "choose"] = "choose"

    @model_validator(mode="before")
    @classmethod
    def read_older_key(cls, content: Any) -> Any:
        """Turn `threshold_quantile` into a rate of false alarms; beside another target, it is an error."""
        if not isinstance(content, Mapping) or OLDER_KEY not in content:
            return content
        if others := [name for name in (RATE, *COSTS) if content.get(name) is not None]:
            raise ValueError(f"{OLDER_KEY} is the older form of {RATE}: give it or {others[0]}, not both")
        quantile = content[OLDER_KEY]
        if isinstance(quantile, bool) or not isinstance(quantile, int | float) or not 0 < quantile <= 1:
            raise ValueError(f"{OLDER_KEY}: {quantile!r} is no number above 0 and up to 1")
        rest = {name: value for name, value in content.items() if name != OLDER_KEY}
        return rest | {RATE: round(1 - quantile, 12)}


def with_target_of(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with overrides; a target among these replaces the settings' own target.

    Args:
        content: keys of `CalibrationSettings` and others.
        overrides: of some of them.
    """
    replaced: set[str] = set()
    if overrides.keys() & {RATE, OLDER_KEY}:
        replaced = {RATE, OLDER_KEY, *COSTS}
    elif overrides.keys() & set(COSTS):
        replaced = {RATE, OLDER_KEY}
    return {name: value for name, value in content.items() if name not in replaced} | dict(overrides)
