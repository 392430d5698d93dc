"""Drift: does a batch of production rows still look like the reference made with the model?

Two samples are compared by several statistics at once: Kolmogorov-Smirnov and the population stability index
for numbers, the maximum mean discrepancy for vectors. Each threshold comes from permutations of the pooled
rows, and they are chosen together, so that the rate of false alarms of the whole family is the stated one
(the min-p procedure of Westfall and Young, 1993). It holds for rows that are exchangeable without drift: a
batch of consecutive frames of one part is not, so take rows from a longer time with `thin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata

from metaldefect.config import Config

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BINS = 10
# Half a row per bin, so that an empty bin gives a large index and not an infinite one
SMOOTHING = 0.5
# Each statistic has a rarest permutation of its own. With fewer than this many in the share that may raise an
# alarm, those alone fill it, and no threshold is left
PERMUTATIONS_PER_ALARM = 15


def permutations_for(rate: float) -> int:
    """The fewest permutations that give thresholds for a rate of false alarms."""
    return round(PERMUTATIONS_PER_ALARM / rate)


class DriftSettings(Config):
    """When a batch is compared, and how often it may be called drift without any.

    Attributes:
        min_rows: rows that a batch needs; with fewer, nothing is decided.
        max_rows: rows that are compared, of batch and reference each; more are thinned evenly.
        false_alarm_rate: share of batches without drift that may raise an alarm.
        permutations: how many set the thresholds.
    """

    min_rows: PositiveInt = 100
    max_rows: PositiveInt = 500
    false_alarm_rate: float = Field(default=0.01, gt=0, lt=0.5)
    permutations: PositiveInt = 1999

    @model_validator(mode="after")
    def permutations_resolve_the_rate(self) -> DriftSettings:
        """A rate of 1 % needs more than a hundred permutations to be found among them."""
        needed = permutations_for(self.false_alarm_rate)
        if self.permutations < needed:
            raise ValueError(f"false_alarm_rate {self.false_alarm_rate} needs at least {needed} permutations")
        if self.max_rows < self.min_rows:
            raise ValueError(f"max_rows {self.max_rows} is less than min_rows {self.min_rows}")
        return self


@dataclass(frozen=True)
class Statistic:
    """One comparison of batch and reference.

    Attributes:
        name: what is compared, and how: `score_ks`.
        value: 0 if both samples are equal; larger is farther apart.
        threshold: the batch has drifted if the value reaches it.
    """

    name: str
    value: float
    threshold: float

    @property
    def exceeds(self) -> bool:
        """Whether this statistic raises the alarm."""
        return self.value >= self.threshold


@dataclass(frozen=True)
class DriftResult:
    """The comparison of one batch.

    Attributes:
        rows: of the batch, after thinning.
        reference_rows: of the reference, after thinning.
        p_value: probability of statistics at least as extreme without drift, over the whole family.
        statistics: all of them.
    """

    rows: int
    reference_rows: int
    p_value: float
    statistics: tuple[Statistic, ...]

    @property
    def drifted(self) -> bool:
        """Whether any statistic reaches its threshold."""
        return any(statistic.exceeds for statistic in self.statistics)


def find_drift(
    reference: Mapping[str, Floats], batch: Mapping[str, Floats], settings: DriftSettings, seed: int = 0
) -> DriftResult:
    """Compare a batch with the reference.

    Args:
        reference: columns by name: numbers `[N]` or vectors `[N, D]`, in any unit.
        batch: the same columns, `[M]` or `[M, D]`.
        settings: sizes and the rate of false alarms.
        seed: of the permutations.

    Raises:
        ValueError: the columns differ, or a sample has fewer than two rows.
    """
    if reference.keys() != batch.keys():
        raise ValueError(f"columns differ: {sorted(reference)} and {sorted(batch)}")
    first = {
        name: thin(np.asarray(values, np.float64), settings.max_rows) for name, values in reference.items()
    }
    second = {name: thin(np.asarray(values, np.float64), settings.max_rows) for name, values in batch.items()}
    known, new = (len(next(iter(sample.values()))) for sample in (first, second))
    if min(known, new) < 2:
        raise ValueError(f"{known} reference rows and {new} batch rows: both need at least two")
    observed = np.arange(known + new) >= known
    shuffled = np.tile(observed, (settings.permutations, 1))
    labels = np.vstack([observed, np.random.default_rng(seed).permuted(shuffled, axis=1)])
    columns: dict[str, Floats] = {}
    for name in reference:
        pooled = np.concatenate([first[name], second[name]])
        if pooled.ndim == 1:
            columns[f"{name}_ks"] = ks_statistics(pooled, labels)
            columns[f"{name}_psi"] = psi_statistics(pooled, labels)
        else:
            columns[f"{name}_mmd"] = mmd_statistics(pooled, labels)
    table = np.stack(list(columns.values()), axis=1)
    thresholds, p_value = joint_thresholds(table, settings.false_alarm_rate)
    statistics = (
        Statistic(name, float(value), float(threshold))
        for name, value, threshold in zip(columns, table[0], thresholds, strict=True)
    )
    return DriftResult(new, known, p_value, tuple(statistics))


def thin(values: Floats, rows: int) -> Floats:
    """At most `rows` rows, evenly spaced over all: neighbours in time resemble each other."""
    if len(values) <= rows:
        return values
    return values[np.linspace(0, len(values) - 1, rows).round().astype(int)]


def joint_thresholds(table: Floats, rate: float) -> tuple[Floats, float]:
    """Thresholds of several statistics that are exceeded together at a given rate without drift.

    Args:
        table: one row per labelling of the pooled rows, the observed one first; one column per statistic.
        rate: share of labellings in which at least one statistic may reach its threshold.

    Returns:
        The threshold of each column (infinite if no value is rare enough), and the p-value of the first row.
    """
    ranks = rankdata(-table, method="max", axis=0) / len(table)
    rarest = ranks.min(axis=1)
    ordered = np.sort(rarest)
    # The largest rank that at most `rate` of the labellings reach, ties included
    shares = np.searchsorted(ordered, ordered, side="right") / len(table)
    allowed = ordered[shares <= rate + 1e-12]
    limit = allowed[-1] if len(allowed) else 0.0
    thresholds = np.where(ranks <= limit, table, np.inf).min(axis=0)
    return thresholds, float(np.mean(rarest <= rarest[0]))


def ks_statistics(pooled: Floats, labels: Flags) -> Floats:
    """Kolmogorov-Smirnov distance, in [0, 1], between the two parts of the pooled rows.

    Args:
        pooled: `[N]`.
        labels: `[L, N]`, true for rows of the second part; one statistic per row.
    """
    order = np.argsort(pooled, kind="stable")
    last_of_ties = np.append(np.diff(pooled[order]) != 0, True)
    second = labels[:, order]
    size = int(labels[0].sum())
    share = np.cumsum(second, axis=1) / size
    other = np.cumsum(~second, axis=1) / (len(pooled) - size)
    distances: Floats = np.abs(share - other)[:, last_of_ties].max(axis=1)
    return distances


def psi_statistics(pooled: Floats, labels: Flags) -> Floats:
    """Population stability index between the two parts, over tenths of the pooled rows.

    The usual bins are tenths of the reference; those of the pooled rows do not change when rows change
    sides. Arguments as for `ks_statistics`.
    """
    inner = np.quantile(pooled, np.linspace(0, 1, BINS + 1)[1:-1])
    member = np.eye(BINS)[np.searchsorted(inner, pooled, side="right")]
    second = labels.astype(np.float64) @ member
    return stability_index(member.sum(axis=0) - second, second)


def stability_index(reference: Floats, batch: Floats) -> Floats:
    """Population stability index of counts per bin `[..., bins]`: 0 if the shares are equal.

    Under 0.1 is commonly called stable and over 0.25 a shift, whatever the number of rows.
    """
    shares = [
        (counts + SMOOTHING) / (counts + SMOOTHING).sum(axis=-1, keepdims=True)
        for counts in (reference, batch)
    ]
    index: Floats = ((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum(axis=-1)
    return index


def mmd_statistics(pooled: Floats, labels: Flags) -> Floats:
    """Squared maximum mean discrepancy of vectors `[N, D]` (Gretton et al. 2012, eq. 5), 0 or more.

    The kernel is Gaussian; its width is the median distance between different rows.
    """
    distances = pdist(pooled)
    apart = distances[distances > 0]
    width = float(np.median(apart)) if len(apart) else 1.0
    kernel = np.exp(-(squareform(distances) ** 2) / (2 * width**2))
    second = labels / labels.sum(axis=1, keepdims=True)
    first = ~labels / (~labels).sum(axis=1, keepdims=True)
    weights = second - first
    return np.maximum(((weights @ kernel) * weights).sum(axis=1), 0.0)
