"""How images and insertions are drawn, as typed settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from metaldefect.config import Config
from metaldefect.maskgit.sampling_config import DrawingSettings

Method = Literal["drawn", "transplant", "procedural"]
Format = Literal["coco", "mvtec", "yolo", "yolo-polygons", "voc"]


class CandidateConfig(DrawingSettings):
    """How candidates are drawn, in place of `sampling`: weak guidance keeps variety to choose from.

    Attributes:
        per_image: candidates per kept image; 1 draws exactly the images to keep, with `sampling` unchanged.
    """

    per_image: PositiveInt


class BlendSettings(Config):
    """How an insertion meets its canvas; `feather`: width in pixels of the blend outside a mask."""

    feather: PositiveFloat = 6.0


class InsertionSettings(BlendSettings):
    """How many defects are inserted.

    Attributes:
        per_class: defects per class.
        batch_size: defects drawn per batch.
    """

    per_class: PositiveInt = 10
    batch_size: PositiveInt = 16


class InsertionConfig(InsertionSettings):
    """How defects are inserted; `attempts`: how many times to draw a defect that cannot
    be seen."""

    attempts: PositiveInt


class TransplantConfig(Config):
    """How real defects vary on the way to other metal, after a random mirroring.

    Attributes:
        turn: largest angle in degrees to either side.
        smallest: smallest scale, used where no size is asked for.
        largest: largest scale, likewise.
    """

    turn: float = Field(default=20.0, ge=0, le=180)
    smallest: PositiveFloat = 0.8
    largest: PositiveFloat = 1.25
