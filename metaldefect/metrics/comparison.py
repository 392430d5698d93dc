"""Whether one detector is better than another on the same images: paired bootstrap over scenes.

Both detectors have scored the same images, so every resample draws the same images for both, and what an
image has in common for the two cancels out. Whole scenes are drawn, within good images and within each type
of defect, because exposures of one piece of metal are not independent.

A resample is a weight per image: how often it was drawn. The AUROC under weights is a quotient of two
bilinear forms, so that thousands of resamples are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaldefect.inspection.layout import GOOD

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DetectorScores:
    """What a detector says about a set of images.

    Attributes:
        scores: one number per image, larger for defects.
        threshold: the detector's own; scores above it are alarms.
    """

    scores: Floats
    threshold: float

    @property
    def alarms(self) -> NDArray[np.bool_]:
        """Which images the detector calls defective."""
        return self.scores > self.threshold


@dataclass(frozen=True)
class Difference:
    """A metric of two detectors; the interval is of `challenger - champion`.

    Metrics are such that more is better.
    """

    champion: float
    challenger: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """How much better the challenger is."""
        return self.challenger - self.champion


def compare(
    champion: DetectorScores,
    challenger: DetectorScores,
    labels: Sequence[str],
    scenes: Sequence[str],
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Every metric of `metric_values` for both, with the interval of the difference.

    Args:
        champion: the detector in use.
        challenger: the other one.
        labels: `good` or the type of defect, per image.
        scenes: the scene of each image.
        confidence: of the two-sided percentile interval.
        samples: resamples.
        seed: of the resampling.

    Raises:
        ValueError: the lengths differ, or there are no good or no defective images.
    """
    kinds = np.asarray(labels)
    if not len(kinds) == len(scenes) == len(champion.scores) == len(challenger.scores):
        raise ValueError(
            f"{len(champion.scores)} and {len(challenger.scores)} scores, {len(kinds)} labels,"
            f" {len(scenes)} scenes"
        )
    once = np.ones((1, len(kinds)))
    drawn = scene_weights(kinds, scenes, samples, np.random.default_rng(seed))
    exact = [metric_values(one, kinds, once) for one in (champion, challenger)]
    resampled = [metric_values(one, kinds, drawn) for one in (champion, challenger)]
    tail = (1 - confidence) / 2
    result = {}
    for name in exact[0]:
        low, high = np.quantile(resampled[1][name] - resampled[0][name], [tail, 1 - tail])
        old, new = (float(one[name][0]) for one in exact)
        result[name] = Difference(old, new, float(low), float(high))
    return result


def metric_values(detector: DetectorScores, labels: NDArray[np.str_], weights: Floats) -> dict[str, Floats]:
    """The metrics of one detector under each row of weights `[B, N]`; each is `float64 [B]`, in [0, 1].

    `image_auroc` looks at the order of scores alone. `balanced_accuracy` looks at the decisions at the
    detector's own threshold: the mean of `detection_rate` and `passed_good`, the share of good images without
    an alarm. `image_auroc/<type>` and `detection_rate/<type>` are of one type of defect against all good
    images.

    Raises:
        ValueError: no good or no defective images.
    """
    good = labels == GOOD
    if good.all() or not good.any():
        raise ValueError(f"all {len(labels)} images are {'good' if good.any() else 'defective'}")
    passed = weighted_mean(~detector.alarms, good, weights)
    found = weighted_mean(detector.alarms, ~good, weights)
    result = {
        "image_auroc": weighted_auroc(detector.scores, ~good, good, weights),
        "balanced_accuracy": (found + passed) / 2,
        "detection_rate": found,
        "passed_good": passed,
    }
    for kind in sorted(set(labels[~good].tolist())):
        here = labels == kind
        result[f"image_auroc/{kind}"] = weighted_auroc(detector.scores, here, good, weights)
        result[f"detection_rate/{kind}"] = weighted_mean(detector.alarms, here, weights)
    return result


def weighted_mean(hits: NDArray[np.bool_], chosen: NDArray[np.bool_], weights: Floats) -> Floats:
    """Share of hits among the chosen images, per row of weights."""
    return np.asarray(weights[:, chosen] @ hits[chosen] / weights[:, chosen].sum(axis=1))


def weighted_auroc(
    scores: Floats, positive: NDArray[np.bool_], negative: NDArray[np.bool_], weights: Floats
) -> Floats:
    """Share of (positive, negative) pairs in the right order, ties counting half, per row of weights."""
    above, below = scores[positive][:, None], scores[negative][None]
    wins = (above > below) + 0.5 * (above == below)
    rows, columns = weights[:, positive], weights[:, negative]
    return np.asarray(((rows @ wins) * columns).sum(axis=1) / (rows.sum(axis=1) * columns.sum(axis=1)))


def scene_weights(
    labels: NDArray[np.str_], scenes: Sequence[str], samples: int, rng: np.random.Generator
) -> Floats:
    """How often each image occurs in each resample, `float64 [samples, N]`.

    Within every label, as many scenes are drawn as there are, with replacement.
    """
    weights = np.zeros((samples, len(labels)))
    names = np.asarray(scenes)
    for label in sorted(set(labels.tolist())):
        chosen = labels == label
        _, scene_of = np.unique(names[chosen], return_inverse=True)
        count = int(scene_of.max()) + 1
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=samples)
        weights[:, chosen] = drawn[:, scene_of]
    return weights
