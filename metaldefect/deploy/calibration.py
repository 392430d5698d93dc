"""Calibration of an export: images that set the INT8 ranges, and one threshold per precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metaldefect.deploy.export import graph_file
from metaldefect.deploy.runtime import Detector, compile_graph
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


def choose_threshold(folder: Path, precision: str, normals: U8, quantile: float) -> float:
    """Choose a precision's threshold: a quantile of the scores that it gives validation normals.

    Args:
        folder: holds the exported graphs.
        precision: fp32, fp16 or int8.
        normals: grey `uint8 [N, S, S]` at the graph's size.
        quantile: which quantile of the scores, 0 to 1.
    """
    compiled = compile_graph(folder / graph_file(precision), precision)
    detector = Detector(compiled, normals.shape[1], threshold=0.0, precision=precision)
    return float(np.quantile([detector.detect(image)[0] for image in normals], quantile))
