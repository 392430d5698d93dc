"""What an export chooses for its precisions: the images that show INT8 its ranges, and the thresholds."""

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
    """Normal images `uint8 [N, S, S]`, one in four with something painted onto it, procedurally.

    INT8 holds only the range that its calibration images show, and defects lie beyond what normal ones do.
    """
    painted = images.copy()
    kinds = list(ANOMALIES)
    for index in range(0, len(images), PAINTED_INTERVAL):
        kind = kinds[index // PAINTED_INTERVAL % len(kinds)]
        rng = keyed_generator(seed, "int8 calibration", index)
        painted[index], _ = paint_anomaly(kind, rng, images[index])
    return painted


def choose_threshold(folder: Path, precision: str, normals: U8, quantile: float) -> float:
    """The threshold of a precision: the quantile of its own scores on validation normals.

    Args:
        folder: holds the exported graphs.
        precision: fp32, fp16 or int8.
        normals: grey `uint8 [N, S, S]` at the graph's size.
        quantile: of the scores.
    """
    compiled = compile_graph(folder / graph_file(precision), precision)
    detector = Detector(compiled, normals.shape[1], threshold=0.0, precision=precision)
    return float(np.quantile([detector.detect(image)[0] for image in normals], quantile))
