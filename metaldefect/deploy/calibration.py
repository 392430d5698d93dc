"""Calibration of an export: images that set the INT8 ranges, and one threshold per precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from metaldefect.deploy.bundle import Validation
from metaldefect.images import U8, as_channels, middle
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import keyed_generator, paint_anomaly
from metaldefect.synthesis.change import recolour

PAINTED_INTERVAL = 4


def with_painted_anomalies(images: U8, seed: int) -> U8:
    """Paint a procedural anomaly onto one in four of the normal images.

    INT8 can represent only the range of its calibration images, and defects exceed the range of normal ones.

    Args:
        images: `uint8 [N, H, W]` or `[N, H, W, 3]`.
        seed: of the anomalies.

    Returns:
        Images of the same shape.
    """
    painted = images.copy()
    kinds = list(ANOMALIES)
    for index in range(0, len(images), PAINTED_INTERVAL):
        kind = kinds[index // PAINTED_INTERVAL % len(kinds)]
        rng = keyed_generator(seed, "int8 calibration", index)
        paint_middle(painted[index], kind, rng)
    return painted


def paint_middle(image: U8, kind: str, rng: np.random.Generator) -> None:
    """Paint an anomaly into the largest square in the middle of an image; colours keep their hue."""
    side = min(image.shape[:2])
    square = middle(image, (side, side))
    marked, _ = paint_anomaly(kind, rng, as_channels(square, 1))
    square[...] = recolour(square, marked)


def validate_precision(
    scores: Mapping[str, NDArray[np.float64]], thresholds: Mapping[str, float], precision: str
) -> Validation:
    """Compare a precision's decisions about normal images with FP32's.

    Args:
        scores: of the same normal images, by precision.
        thresholds: by precision.
        precision: the one to describe.
    """
    flags, reference = (scores[name] > thresholds[name] for name in (precision, "fp32"))
    return Validation(
        images=len(flags),
        false_alarm_rate=float(flags.mean()),
        changed_decisions=float((flags != reference).mean()),
        largest_difference=float(np.abs(scores[precision] - scores["fp32"]).max()),
    )
