"""How MaskGIT is trained, as typed settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from metaldefect.config import ADDED_LATER, Config
from metaldefect.maskgit.config import ShapeSettings


class LossSettings(Config):
    """Loss and optimiser.

    `schedule`: how the learning rate goes on after the warm-up: down to the last step, or constant for a
    training without a fixed end.
    `rectangle_share` and `hidden_defect_share`: see `training_mask`.
    `soft_weight` is the share of the target that goes to codes similar to the true one (see `soft_targets`).
    """

    steps: PositiveInt
    learning_rate: PositiveFloat = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 50
    weight_decay: float = 0.03
    label_dropout: float = Field(default=0.1, ge=0, le=1)
    label_smoothing: float = Field(default=0.1, ge=0, le=1)
    unmasked_weight: float = 0.0
    rectangle_share: float = Field(default=0.15, ge=0, le=1)
    hidden_defect_share: Annotated[float, ADDED_LATER, Field(ge=0, le=1)] = 0.5
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    soft_weight: float = Field(default=0.0, ge=0, lt=1)


class MaskGITTrainingConfig(LossSettings):
    """How one stage is trained; `conditional` false hides the label of every sample: the first of two."""

    conditional: bool = True


class ScheduleSettings(Config):
    """How long and in which batches MaskGIT is trained.

    Attributes:
        unconditional_steps: length of a first stage that hides all labels and samples images equally;
            included in the configuration's steps. 0: one stage.
        batch_size: images per step.
        checkpoint_steps: steps between checkpoints.
    """

    unconditional_steps: NonNegativeInt
    batch_size: PositiveInt
    checkpoint_steps: PositiveInt


class Schedule(ScheduleSettings):
    """How long and on which data MaskGIT is trained.

    Attributes:
        seed: of batches, masks and dropout.
        weights: sampling weight of each training image in the conditional stage; None: all equal.
    """

    seed: NonNegativeInt
    weights: Sequence[float] | None = None


class RecipeTrainingSettings(LossSettings, ScheduleSettings):
    """A whole training.

    Attributes:
        balanced: whether classes and sources get equal weight in the conditional stage.
        soft_neighbours, soft_temperature: see `soft_targets`; used if the loss has a soft weight.
    """

    balanced: bool
    soft_neighbours: PositiveInt
    soft_temperature: PositiveFloat


class StartSettings(Config):
    """What a training starts from.

    Attributes:
        base: path of a checkpoint or model; None starts from random weights.
        codebook_start: see `start_weights`.
    """

    base: str | None
    codebook_start: float = Field(ge=0)


class RecipeSettings(ShapeSettings, StartSettings):
    """What decides a trained MaskGIT besides its tokens and the seed."""

    training: RecipeTrainingSettings


class MaskGITPretrainSettings(Config):
    """What determines base weights besides the time spent on them.

    `images`: token grids to train on, with a learning rate that falls to zero; None: as many as the time
    allows, at a constant rate. `symmetries`: in how many of the square's eight symmetries each drawn image
    comes, where drawing takes longer than training; the batch size counts all of them.
    """

    size: str = "cpu"
    image_size: PositiveInt = 256
    images: PositiveInt | None = None
    symmetries: int = Field(default=1, ge=1, le=8)
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 2e-3
    checkpoint_steps: PositiveInt = 50
    seed: NonNegativeInt = 0

    @property
    def steps(self) -> int | None:
        """Steps of the training, if its images are numbered."""
        return None if self.images is None else -(-self.images // self.batch_size)

    @model_validator(mode="after")
    def whole_images(self) -> Self:
        """A batch holds each of its images in all symmetries."""
        if self.batch_size % self.symmetries:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of {self.symmetries} symmetries")
        return self
