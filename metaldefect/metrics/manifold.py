"""Precision, recall, density and coverage: is what is drawn real, and is all that is real drawn?

Each is the mean of one number a sample, which is what the functions return: intervals are theirs to have.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Features = NDArray[np.float32]
Values = NDArray[np.float64]


class ManifoldScores(NamedTuple):
    """Per-sample values; the metric is their mean."""

    precision: Values  # [fake]: 1 within some real sample's ball
    recall: Values  # [real]: 1 within some fake sample's ball
    density: Values  # [fake]: real balls it is in, over k; around 1 for samples of the real distribution
    coverage: Values  # [real]: 1 if a fake sample is in its ball


def manifold_scores(real: Features, fake: Features, k: int = 5) -> ManifoldScores:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A sample's ball reaches to its k-th nearest neighbour among its own kind, itself not counted.

    Args:
        real: `float [M, D]`, fake: `float [N, D]`, each with more than k samples.

    Raises:
        ValueError: too few samples.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"k = {k} needs more than {k} samples a side, got {len(real)} and {len(fake)}")
    between = cdist(fake, real)
    real_radius = np.sort(cdist(real, real), axis=1)[:, k]
    fake_radius = np.sort(cdist(fake, fake), axis=1)[:, k]
    in_real = between <= real_radius[None, :]
    return ManifoldScores(
        in_real.any(axis=1).astype(np.float64),
        (between <= fake_radius[:, None]).any(axis=0).astype(np.float64),
        in_real.sum(axis=1) / k,
        in_real.any(axis=0).astype(np.float64),
    )
