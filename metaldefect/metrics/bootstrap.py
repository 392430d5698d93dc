"""95 % intervals of published numbers, over independent units: whole groups of images.

Images of one near-duplicate group or scene are correlated, so a resample takes all of them or none.
`scipy.stats.bootstrap` resamples each group's sum and count: the mean over drawn groups is the sum of their
sums over the sum of their counts. Our own code covers what scipy cannot do: crossing two kinds of units
(`seed_and_group_interval` in `usefulness`) and statistics of pairs, which repeated samples would bias
(`half_sample_interval`, and `kid_estimates` in `generation`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Groups = Sequence[object] | NDArray[Any]

RESAMPLES = 1000
# Resamples that scipy holds at a time: limits its memory to 100 x groups numbers.
BATCH = 100


def bootstrap_mean(
    values: ArrayLike, groups: Groups | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float]:
    """Mean of `values` with a 95 % percentile bootstrap interval.

    Args:
        values: one number per image, any unit; at least two groups of them.
        groups: group of each value. None: each value is a group.

    Returns:
        `mean`, `low`, `high`, in the unit of `values`.

    Raises:
        ValueError: fewer than two groups.
    """
    numbers = np.asarray(values, np.float64)
    keys = group_numbers(groups, len(numbers))
    samples = (np.bincount(keys, weights=numbers), np.bincount(keys).astype(float))
    low, high = percentile_interval(ratio_of_sums, samples, paired=True, resamples=resamples, seed=seed)
    return {"mean": float(numbers.mean()), "low": low, "high": high}


def ratio_interval(
    top: ArrayLike, bottom: ArrayLike, groups: Groups | None = None, resamples: int = RESAMPLES
) -> list[float]:
    """95 % interval `[low, high]` of the ratio of two means over the same images, resampling whole groups.

    Args:
        top: one number per image, bottom: one number of the same image, 0 or more.
        groups: group of each image. None: each image is a group.

    Raises:
        ValueError: fewer than two groups, or `bottom` is 0 everywhere.
    """
    tops, bottoms = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    keys = group_numbers(groups, len(tops))
    samples = (np.bincount(keys, weights=tops), np.bincount(keys, weights=bottoms))
    if not samples[1].any():
        raise ValueError("a ratio to a mean of 0 has no value")
    return list(percentile_interval(ratio_of_sums, samples, paired=True, resamples=resamples, seed=0))


def ratio_of_means(
    top: ArrayLike,
    bottom: ArrayLike,
    top_groups: Groups | None = None,
    bottom_groups: Groups | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """Mean of one sample over the mean of another, independent one, with a 95 % bootstrap interval.

    Args:
        top: one number per image, bottom: one number per image, of other images.
        top_groups: group of each value of `top`, bottom_groups: of `bottom`. None: each value is a group.

    Returns:
        `mean` (the ratio), `low`, `high`.

    Raises:
        ValueError: fewer than two groups on a side.
    """
    numbers = [np.asarray(values, np.float64) for values in (top, bottom)]
    keys = [
        group_numbers(groups, len(values))
        for groups, values in zip((top_groups, bottom_groups), numbers, strict=True)
    ]
    sums = [np.bincount(key, weights=values) for key, values in zip(keys, numbers, strict=True)]
    counts = [np.bincount(key).astype(float) for key in keys]

    def ratio(tops: NDArray[np.int64], bottoms: NDArray[np.int64], axis: int = -1) -> Floats:
        mean = [
            ratio_of_sums(sums[i][drawn], counts[i][drawn], axis) for i, drawn in enumerate((tops, bottoms))
        ]
        return mean[0] / mean[1]

    samples = tuple(np.arange(len(each)) for each in sums)
    low, high = percentile_interval(ratio, samples, paired=False, resamples=resamples, seed=seed)
    return {"mean": float(numbers[0].mean() / numbers[1].mean()), "low": low, "high": high}


def half_sample_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Groups,
    *,
    resamples: int = 100,
    seed: int = 0,
) -> dict[str, float]:
    """A statistic with a 95 % interval from random halves of the groups, drawn without replacement.

    For statistics of pairs, such as KID, which the bootstrap's repeated samples would bias. The spread over
    the halves estimates the standard error of the whole (delete-half jackknife, Shao & Wu 1989).

    Args:
        statistic: takes the indices of samples, `int64 [n]`.
        groups: group of each sample; at least two groups.

    Returns:
        `mean` (the statistic of all samples), `low`, `high`.

    Raises:
        ValueError: fewer than two groups.
    """
    keys = group_numbers(groups, len(groups))
    count = int(keys.max()) + 1
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(resamples):
        chosen = np.zeros(count, bool)
        chosen[rng.permutation(count)[: count // 2]] = True
        halves.append(statistic(np.flatnonzero(chosen[keys])))
    whole, margin = statistic(np.arange(len(keys))), 1.96 * float(np.std(halves))
    return {"mean": whole, "low": whole - margin, "high": whole + margin}


def group_numbers(groups: Groups | None, count: int) -> NDArray[np.int64]:
    """Number the groups from 0, `int64 [count]`; None puts each value in its own group.

    Raises:
        ValueError: groups and values differ in number, or there are fewer than two groups.
    """
    keys = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(keys) != count:
        raise ValueError(f"{len(keys)} groups for {count} values")
    if count == 0 or keys.max() < 1:
        raise ValueError(f"an interval needs values of at least two groups, got {count} values of fewer")
    return keys.astype(np.int64)


def ratio_of_sums(top: Floats, bottom: Floats, axis: int = -1) -> Floats:
    """Ratio of the sums along an axis; NaN where the lower sum is 0."""
    below = bottom.sum(axis=axis)
    return top.sum(axis=axis) / np.where(below == 0, np.nan, below)


def percentile_interval(
    statistic: Callable[..., Floats],
    samples: tuple[NDArray[Any], ...],
    *,
    paired: bool,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """2.5th and 97.5th percentile of a statistic over bootstrap resamples.

    Leaves out resamples in which the statistic is NaN (a ratio to 0).
    """
    with warnings.catch_warnings():
        # scipy warns about NaN among the resamples and in its own interval, which we therefore do not use
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            samples, statistic, n_resamples=resamples, batch=BATCH, vectorized=True, paired=paired,
            method="percentile", rng=np.random.default_rng(seed),
        )  # fmt: skip
    low, high = np.nanpercentile(found.bootstrap_distribution, [2.5, 97.5])
    return float(low), float(high)
