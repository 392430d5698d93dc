"""Choose a threshold for a stated target, and say what the number of images can support.

Pure functions of scores. With the k-th smallest of n independent scores of good images as the threshold, the
share of new good images above it has the distribution Beta(n + 1 - k, k), whatever the scores look like: so
an expected rate and an interval are known without a test set (conformal prediction; David and Nagaraja,
Order Statistics, section 7.1). Images of one scene are not independent, so scenes count, not images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from metaldefect.efficientad.config import Target as Target

ScoreArray = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Threshold:
    """A threshold, how it was chosen and what may be expected of it.

    Attributes:
        value: scores above it are anomalous.
        method: how it was chosen, in words.
        support: what the number of good images allows, in words.
        false_alarms: expected share of good images above it.
        interval: of that share, 95 %.
        detected: share of inserted defects above it; None without any.
        expected_cost: per image, for a target of costs.
    """

    value: float
    method: str
    support: str
    false_alarms: float
    interval: tuple[float, float]
    detected: float | None = None
    expected_cost: float | None = None

    def record(self) -> dict[str, Any]:
        """The values for a JSON file; those that are unknown are left out."""
        found = {
            "value": self.value,
            "method": self.method,
            "support": self.support,
            "expected_false_alarm_rate": self.false_alarms,
            "false_alarm_rate_interval_95": list(self.interval),
            "inserted_defects_found": self.detected,
            "expected_cost_per_image": self.expected_cost,
        }
        return {name: value for name, value in found.items() if value is not None}


def choose_threshold(normals: ArrayLike, defects: ArrayLike, target: Target, scenes: int) -> Threshold:
    """Choose the threshold for a target from scores of held-out images.

    Args:
        normals: scores of good images, at least one.
        defects: scores of inserted defects; may be empty.
        target: what for. Costs without defects to weigh fall back on a rate of false alarms.
        scenes: number of independent scenes among the good images.

    Raises:
        ValueError: there are no scores of good images.
    """
    good, bad = (np.sort(np.asarray(scores, np.float64)) for scores in (normals, defects))
    if not len(good):
        raise ValueError("a threshold needs scores of good images")
    if target.costs is None:
        value, method = threshold_at_rate(good, target.rate, scenes)
        cost = None
    elif not len(bad):
        value, method = threshold_at_rate(good, target.rate, scenes)
        method = f"no inserted defects to weigh the costs with, so for false alarms instead: {method}"
        cost = None
    else:
        value, cost = threshold_at_least_cost(good, bad, target)
        method = (
            f"least expected cost: {target.costs[0]:g} per miss, {target.costs[1]:g} per false alarm,"
            f" {percent(target.defect_share)} of the images defective"
        )
    expected, interval = false_alarm_rate(good, value, scenes)
    detected = float((bad > value).mean()) if len(bad) else None
    wanted = target.rate if target.costs is None else expected
    return Threshold(value, method, support(scenes, wanted, interval), expected, interval, detected, cost)


def needed_scenes(rate: float) -> int | None:
    """The number of good scenes from which a rate of false alarms can be set; None: no number is enough."""
    return math.ceil(1 / rate - 1e-9) - 1 if rate > 0 else None


def threshold_at_rate(good: ScoreArray, rate: float, scenes: int) -> tuple[float, str]:
    """The threshold above which a share `rate` of new good images is expected, and how it was found.

    With enough scenes it is an order statistic of the scores (split conformal prediction). With fewer, it is
    the upper prediction limit of a normal distribution, and at least the highest score.

    Args:
        good: sorted scores.
        rate: in [0, 1).
        scenes: number of independent scenes among them.
    """
    count, needed = len(good), needed_scenes(rate)
    if needed is not None and scenes >= needed:
        rank = min(count, math.ceil((count + 1) * (1 - rate) - 1e-9))
        return float(good[rank - 1]), f"the score that {percent(rate)} of new good images should exceed"
    highest = float(good[-1])
    if rate <= 0 or scenes < 2 or count < 2:
        return highest, f"the highest score of {images(count)}: too few to aim at {percent(rate)}"
    width = float(stats.t.ppf(1 - rate, scenes - 1)) * math.sqrt(1 + 1 / scenes)
    limit = float(good.mean() + width * good.std(ddof=1))
    return max(limit, highest), (
        f"extrapolated from {images(count)} to {percent(rate)} false alarms with a normal distribution"
    )


def threshold_at_least_cost(good: ScoreArray, bad: ScoreArray, target: Target) -> tuple[float, float]:
    """The threshold with the least expected cost per image, and that cost.

    Candidates lie midway between neighbouring scores. Rates are (k + 1) / (n + 2), because no number of
    images shows a rate of zero; of equal costs the threshold with fewer false alarms wins.

    Args:
        good: sorted scores of good images.
        bad: sorted scores of defects.
        target: with both costs.
    """
    assert target.costs is not None
    values = np.unique(np.concatenate([good, bad]))
    step = float(np.ptp(values)) * 0.01 or 1e-6
    candidates = np.concatenate([[values[0] - step], (values[:-1] + values[1:]) / 2, [values[-1] + step]])
    costs = expected_costs(candidates, good, bad, target)
    best = int(len(costs) - 1 - np.argmin(costs[::-1]))
    return float(candidates[best]), float(costs[best])


def expected_costs(thresholds: ScoreArray, good: ScoreArray, bad: ScoreArray, target: Target) -> ScoreArray:
    """Expected cost per image at each threshold; arguments as for `threshold_at_least_cost`."""
    assert target.costs is not None
    flagged = len(good) - np.searchsorted(good, thresholds, side="right")
    missed = np.searchsorted(bad, thresholds, side="right")
    false_alarms, misses = (flagged + 1) / (len(good) + 2), (missed + 1) / (len(bad) + 2)
    share = target.defect_share
    return np.asarray(target.costs[0] * share * misses + target.costs[1] * (1 - share) * false_alarms)


def false_alarm_rate(good: ScoreArray, threshold: float, scenes: int) -> tuple[float, tuple[float, float]]:
    """Expected share of new good images above a threshold and its 95 % interval.

    Args:
        good: sorted scores of the good images that the threshold was chosen by.
        threshold: the limit; above the highest score, the interval starts at 0.
        scenes: number of independent scenes among the images.
    """
    count = len(good)
    below = int(np.searchsorted(good, threshold, side="right"))
    share = (count + 1 - max(below, 1)) / (count + 1)
    beta = stats.beta(share * (scenes + 1), (1 - share) * (scenes + 1))
    low, high = (float(beta.ppf(q)) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return share, (0.0 if threshold > good[-1] else low, high)


def support(scenes: int, rate: float, interval: tuple[float, float]) -> str:
    """What this number of good scenes allows, in a sentence."""
    needed = needed_scenes(rate)
    span = f"the true rate lies between {percent(interval[0])} and {percent(interval[1])} (95 %)"
    pieces = f"{scenes} independent good image{'s' * (scenes != 1)}"
    if needed is None:
        return f"{pieces}: a rate of 0 % cannot be set by any number; {span}"
    if scenes < needed:
        return f"{pieces}: a rate of {percent(rate)} cannot be set, {needed + 1} are needed; {span}"
    return f"{pieces} support a rate of {percent(rate)}; {span}"


def percent(share: float) -> str:
    """A share as `0.5 %` or `12 %`."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def images(count: int) -> str:
    """`1 good image`, `7 good images`."""
    return f"{count} good image{'s' * (count != 1)}"


def transfer(threshold: float, scores: ArrayLike, others: ArrayLike) -> float:
    """The threshold for another precision that flags the same images.

    Maps by rank between the two precisions' scores of the same images; beyond the highest and the lowest
    score, the distance to it stays.

    Args:
        threshold: for `scores`.
        scores: one precision's, at least one.
        others: the other's scores of the same images, in the same order.
    """
    known, wanted = (np.sort(np.asarray(values, np.float64)) for values in (scores, others))
    if threshold >= known[-1]:
        return float(wanted[-1] + threshold - known[-1])
    if threshold <= known[0]:
        return float(wanted[0] + threshold - known[0])
    return float(np.interp(threshold, known, wanted))
