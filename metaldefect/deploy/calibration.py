"""Calibration of an export: images that set the INT8 ranges, and one threshold per precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from metaldefect.deploy.bundle import Validation
from metaldefect.images import U8
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import keyed_generator, paint_anomaly

PAINTED_INTERVAL = 4


def with_painted_anomalies(images: U8, seed: int) -> U8:
    """Paint a procedural anomaly onto one in four of the normal images; returns `uint8 [N, S, S]`.

    INT8 can represent only the range of its calibration images, and defects exceed the range of normal ones.
    """
    painted = images.copy()
    kinds = list(ANOMALIES)
    for index in range(0, len(images), PAINTED_INTERVAL):
        kind = kinds[index // PAINTED_INTERVAL % len(kinds)]
        rng = keyed_generator(seed, "int8 calibration", index)
        painted[index], _ = paint_anomaly(kind, rng, images[index])
    return painted


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
