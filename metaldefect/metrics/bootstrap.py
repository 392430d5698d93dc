"""Bootstrap intervals that respect groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bootstrap_mean(
    values: ArrayLike, groups: Sequence[object] | None = None, *, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Mean of `values` with a 95 % percentile bootstrap interval.

    Args:
        values: one number an image; not empty.
        groups: group of each value; whole groups are drawn, since images of one group (repeats of
            one photograph) are not independent. None: each value is a group.

    Returns:
        `mean`, `low`, `high`.
    """
    numbers = np.asarray(values, float)
    if numbers.size == 0:
        raise ValueError("no values to average")
    keys = (
        np.arange(numbers.size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    sums = np.bincount(keys, weights=numbers)
    counts = np.bincount(keys).astype(float)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(numbers.mean()), "low": float(low), "high": float(high)}


def ratio_of_means(
    top: ArrayLike, bottom: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Mean of one sample over the mean of another, independent one, with a 95 % bootstrap interval.

    Returns:
        `mean` (the ratio), `low`, `high`.
    """
    rng = np.random.default_rng(seed)
    samples = [np.asarray(values, float) for values in (top, bottom)]
    means = [
        values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1) for values in samples
    ]
    low, high = np.percentile(means[0] / means[1], [2.5, 97.5])
    return {"mean": float(samples[0].mean() / samples[1].mean()), "low": float(low), "high": float(high)}


def half_sample_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Sequence[object],
    *,
    resamples: int = 100,
    seed: int = 0,
) -> dict[str, float]:
    """A statistic with a 95 % interval from halves of the groups, drawn without replacement.

    For statistics of pairs, such as KID, that the bootstrap's repeated samples would bias. The spread over
    random halves estimates the standard error of the whole (delete-half jackknife, Shao & Wu 1989).

    Args:
        statistic: of the samples with these numbers, `int64 [n]`.
        groups: group of each sample; at least two groups.

    Returns:
        `mean` (the statistic of all samples), `low`, `high`.
    """
    keys = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(keys.max()) + 1
    if count < 2:
        raise ValueError("an interval needs samples of at least two groups")
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(resamples):
        chosen = np.zeros(count, bool)
        chosen[rng.permutation(count)[: max(1, count // 2)]] = True
        halves.append(statistic(np.flatnonzero(chosen[keys])))
    whole, spread = statistic(np.arange(len(keys))), 1.96 * float(np.std(halves))
    return {"mean": whole, "low": whole - spread, "high": whole + spread}
