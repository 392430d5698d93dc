"""Measure a bundle on the holdout: what it scores, what it decides, how fast and how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from metaldefect.deploy.bundle import precision_files
from metaldefect.deploy.latency import measure_latency
from metaldefect.deploy.runtime import Detector
from metaldefect.images import U8, as_channels, stack_resized
from metaldefect.inspection.provider import InspectionImage, InspectionImages
from metaldefect.metrics.comparison import DetectorScores

REFERENCE = "fp32"
LATENCY_ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """A bundle on the holdout.

    Attributes:
        version: of the bundle.
        scores: of the precision that the line runs.
        changed_decisions: share of images that this precision decides otherwise than FP32.
        bytes: size of the graph and its weights.
    """

    version: str
    scores: DetectorScores
    changed_decisions: float
    bytes: int


def measure(folder: Path, precision: str, images: InspectionImages) -> tuple[Measured, Detector]:
    """Score every image with the precision that the line runs, and with FP32.

    Raises:
        UserError: the bundle is refused or fails its self-test.
    """
    detector = Detector.load(folder, precision)
    served = score_all(detector, images)
    reference = served
    if precision != REFERENCE:
        reference = score_all(Detector.load(folder, REFERENCE), images)
    changed = float(np.mean(served.alarms != reference.alarms))
    names = [name for name in precision_files(detector.metadata, precision) if "/" not in name]
    size = sum((folder / name).stat().st_size for name in names)
    return Measured(detector.version, served, changed, size), detector


def seen_by(detector: Detector, item: InspectionImage) -> U8:
    """An image with the channels that a detector sees: a grey one never saw colour, a coloured one did."""
    return as_channels(item.image, detector.channels)


def score_all(detector: Detector, images: InspectionImages) -> DetectorScores:
    """The scores of all images, in order."""
    found = [
        detector.predict(seen_by(detector, item)).score
        for item in tqdm(images, desc=f"score {detector.version} {detector.precision}", unit="image")
    ]
    return DetectorScores(np.array(found, np.float64), detector.threshold)


def latencies(detectors: Sequence[Detector], images: InspectionImages, frames: int) -> list[float]:
    """Median milliseconds per frame of each detector.

    The detectors take turns, and the best of three rounds counts: another program on the machine slows
    whoever happens to be measured.
    """
    size = detectors[0].image_size
    indices = np.linspace(0, len(images) - 1, min(len(images), 8)).round().astype(int)
    stacks = [
        stack_resized([seen_by(detector, images[int(index)]) for index in indices], size)
        for detector in detectors
    ]
    best = [np.inf] * len(detectors)
    for _ in range(LATENCY_ROUNDS):
        for index, detector in enumerate(detectors):
            best[index] = min(best[index], measure_latency(detector, stacks[index], frames)["p50_ms"])
    return [float(value) for value in best]
