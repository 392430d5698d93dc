"""Bootstrap intervals that respect groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


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
