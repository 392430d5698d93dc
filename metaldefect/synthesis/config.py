"""How images and insertions are drawn, as typed settings."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from metaldefect.config import Config
from metaldefect.maskgit.sampling_config import DrawingSettings


class CandidateConfig(DrawingSettings):
    """How candidates are drawn, in place of `sampling`: weak guidance keeps variety to choose from.

    Attributes:
        per_image: candidates per kept image; 1 draws exactly the images to keep, with `sampling` unchanged.
    """

    per_image: PositiveInt


class BlendSettings(Config):
    """How an insertion meets its canvas; `feather`: width in pixels of the blend on either side of a
    mask's border."""

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
