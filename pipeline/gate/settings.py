"""The section `gate` of `params.yaml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from metaldefect.config import Config


class Floors(Config):
    """What every detector that serves must reach, whatever the champion does.

    Attributes:
        image_auroc: smallest area under the ROC curve, over all images.
        detection_rate: smallest share of defects with an alarm.
        false_alarm_rate: largest share of good images with an alarm.
    """

    image_auroc: float = Field(ge=0, le=1)
    detection_rate: float = Field(ge=0, le=1)
    false_alarm_rate: float = Field(ge=0, le=1)


class Margins(Config):
    """How much worse than the champion still counts as not worse.

    Attributes:
        overall: of image AUROC, detection rate and share of good images that pass, over all types.
        per_type: of image AUROC and detection rate of each type of defect.
    """

    overall: NonNegativeFloat
    per_type: NonNegativeFloat


class Cost(Config):
    """What the challenger may cost on the line.

    Attributes:
        latency_ms: largest median time per frame; None: any.
        latency_ratio: largest median time per frame over the champion's.
        latency_frames: frames to time.
        size_ratio: largest size of the graph over the champion's.
    """

    latency_ms: PositiveFloat | None
    latency_ratio: PositiveFloat
    latency_frames: PositiveInt
    size_ratio: PositiveFloat


class Bootstrap(Config):
    """The paired bootstrap over scenes.

    Attributes:
        samples: resamples.
        confidence: of the two-sided intervals of differences.
    """

    samples: PositiveInt
    confidence: float = Field(gt=0.5, lt=1)


class Gate(Config):
    """When a challenger replaces the champion.

    Attributes:
        precision: the graph that the line runs.
        floors: absolute limits.
        margins: of non-inferiority.
        changed_decisions: largest share of images that the precision decides otherwise than FP32.
        cost: latency and size.
        bootstrap: of all differences.
    """

    precision: Literal["fp32", "fp16", "int8"]
    floors: Floors
    margins: Margins
    changed_decisions: float = Field(ge=0, le=1)
    cost: Cost
    bootstrap: Bootstrap
