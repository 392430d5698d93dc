"""Precision, recall, density and coverage: are generated images realistic, and do they cover the real ones?

Each metric is the mean of one number per sample. The functions return these numbers so that the caller can
compute an interval of the mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_chunked

Features = NDArray[np.float32]
Values = NDArray[np.float64]

# Distances in memory at a time, MiB.
NEIGHBOURS = 5  # Naeem et al. use 5, Kynkaanniemi et al. 3
CHUNK_MIB = 64


class ManifoldScores(NamedTuple):
    """Per-sample values; the metric is their mean."""

    precision: Values  # [fake]: 1 if inside some real sample's ball
    recall: Values  # [real]: 1 if inside some fake sample's ball
    density: Values  # [fake]: number of real balls around it, over k; about 1 for the real distribution
    coverage: Values  # [real]: 1 if its ball contains a fake sample


def manifold_scores(real: Features, fake: Features, k: int = NEIGHBOURS) -> ManifoldScores:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Higher is better for all; density and coverage are about 1 for samples of the real distribution. A
    sample's ball reaches to its k-th nearest neighbour of the same kind, not counting itself.

    Args:
        real: `float [M, D]`, fake: `float [N, D]`, each with more than k samples.
        k: neighbours.

    Raises:
        ValueError: too few samples.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"k = {k} needs more than {k} samples on each side, got {len(real)} and {len(fake)}")
    x, y = real.astype(np.float64), fake.astype(np.float64)
    real_radius, fake_radius = radii(x, k), radii(y, k)

    inside: list[NDArray[np.int64]] = []
    reached, covered = np.zeros(len(x), bool), np.zeros(len(x), bool)
    for distances in pairwise_distances_chunked(y, x, working_memory=CHUNK_MIB):
        start = sum(len(part) for part in inside)
        in_real = distances <= real_radius
        inside.append(in_real.sum(axis=1))
        covered |= in_real.any(axis=0)
        reached |= (distances <= fake_radius[start : start + len(distances), None]).any(axis=0)
    balls = np.concatenate(inside)
    return ManifoldScores(
        (balls > 0).astype(np.float64), reached.astype(np.float64), balls / k, covered.astype(np.float64)
    )


def radii(points: NDArray[np.float64], k: int) -> Values:
    """Euclidean distance of each point to its k-th nearest neighbour, not counting itself, `float64 [N]`."""

    def kth(distances: NDArray[np.float64], start: int) -> Values:
        return np.partition(distances, k, axis=1)[:, k]

    return np.concatenate(list(pairwise_distances_chunked(points, reduce_func=kth, working_memory=CHUNK_MIB)))
