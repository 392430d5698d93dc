"""How good drawn images are: KID, class agreement, memorisation (together with all else: generation_suite).

All work on feature vectors. The pipeline's extractor is EfficientNet-Lite0 (1,280 pooled features):
its numbers compare with each other, not with the Inception numbers of the literature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.pipeline import Pipeline

from metaldefect.feature_classifier import Features
from metaldefect.metrics.bootstrap import bootstrap_mean


def kid(real: ArrayLike, fake: ArrayLike) -> float:
    """Kernel inception distance: unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski 2018).

    Unbiased, so around 0 (and at times below) for samples of one distribution, at any sample size.

    Raises:
        ValueError: fewer than two samples on a side.
    """
    x, y = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    m, n = len(x), len(y)
    if m < 2 or n < 2:
        raise ValueError(f"KID needs two samples a side, got {m} and {n}")
    d = x.shape[1]
    kxx, kyy, kxy = ((a @ b.T / d + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within_x = (kxx.sum() - np.trace(kxx)) / (m * (m - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (n * (n - 1))
    return float(within_x + within_y - 2.0 * kxy.mean())


def kid_estimates(
    real: ArrayLike,
    fake: ArrayLike,
    real_weights: NDArray[np.float64],
    fake_weights: NDArray[np.float64],
    real_groups: NDArray[Any],
    fake_groups: NDArray[Any],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> NDArray[np.float64]:
    """KID of weighted samples, and of bootstrap resamples of their groups.

    The estimator of `kid` with pairs weighted by the product of their samples' weights. A resample gives a
    sample the weight times how often its group was drawn; a pair of one sample with itself never counts,
    so resamples stay unbiased.

    Args:
        real: `[M, D]`, fake: `[N, D]`; weights and groups: one a sample.

    Returns:
        `float64 [1 + resamples]`, the estimate first. The real side's resamples depend on `seed` alone, so
        estimates against the same real samples are paired.
    """
    x, y = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    d = x.shape[1]
    kxx, kyy, kxy = ((a @ b.T / d + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    np.fill_diagonal(kxx, 0.0)
    np.fill_diagonal(kyy, 0.0)

    def counts(groups: NDArray[Any], key: int) -> NDArray[np.float64]:
        keys = np.unique(groups, return_inverse=True)[1]
        size = int(keys.max()) + 1
        rng = np.random.default_rng([seed, key])
        drawn = rng.multinomial(size, np.full(size, 1.0 / size), size=resamples)
        return np.concatenate([np.ones((1, len(keys))), drawn[:, keys]])

    u, v = counts(real_groups, 0) * real_weights, counts(fake_groups, 1) * fake_weights

    def within(kernel: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = w.sum(axis=1) ** 2 - (w**2).sum(axis=1)
        return np.einsum("rm,rm->r", w @ kernel, w) / pairs

    between = np.einsum("rn,rn->r", u @ kxy, v) / (u.sum(axis=1) * v.sum(axis=1))
    return within(kxx, u) + within(kyy, v) - 2.0 * between


def class_agreement(model: Pipeline, features: Features, labels: NDArray[np.str_]) -> dict[str, object]:
    """Share of samples that a classifier gives the class they were drawn for: mean, interval, per class."""
    hits = model.predict(features) == labels
    per_class = {str(name): float(hits[labels == name].mean()) for name in np.unique(labels)}
    return {**bootstrap_mean(hits), "per_class": per_class}


def memorisation_hits(
    train: Features, test: Features, fake: Features
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Are drawn images copies? Nearest-train distances against those of unseen real images.

    Returns:
        The threshold: the 1st percentile of train-to-train nearest distances (self excluded, exact repeats
        left out); then for each drawn and each unseen real image 1 if it is nearer to a train image.
    """
    within = cdist(train, train)
    np.fill_diagonal(within, np.inf)
    nearest = within.min(axis=1)
    threshold = float(np.percentile(nearest[nearest > 1e-6], 1))
    hits = [(cdist(side, train).min(axis=1) < threshold).astype(np.float64) for side in (fake, test)]
    return threshold, hits[0], hits[1]
