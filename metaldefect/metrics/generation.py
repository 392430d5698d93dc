"""Quality of generated images: KID, class agreement, memorisation (`generation_suite` runs all metrics).

All take feature vectors. The pipeline extracts them with EfficientNet-Lite0 (1,280 pooled features), so its
numbers compare with each other but not with the Inception numbers of the literature.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import pairwise_distances_chunked
from sklearn.metrics.pairwise import polynomial_kernel

from metaldefect.feature_classifier import Features
from metaldefect.metrics.bootstrap import Groups, bootstrap_mean
from metaldefect.metrics.manifold import CHUNK_MIB


def kid(real: ArrayLike, fake: ArrayLike) -> float:
    """Kernel inception distance: unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski 2018).

    Around 0, sometimes below, for samples of one distribution; lower is better. Same as torchmetrics'
    `poly_mmd`, except that the sides may differ in size: `poly_mmd` divides both by the size of the first.

    Args:
        real: `float [M, D]`, fake: `float [N, D]`, at least two samples each.

    Raises:
        ValueError: fewer than two samples on a side.
    """
    x, y = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    m, n = len(x), len(y)
    if m < 2 or n < 2:
        raise ValueError(f"KID needs two samples on each side, got {m} and {n}")
    kxx, kyy, kxy = polynomial_kernels(x, y)
    within_x = (kxx.sum() - np.trace(kxx)) / (m * (m - 1))
    within_y = (kyy.sum() - np.trace(kyy)) / (n * (n - 1))
    return float(within_x + within_y - 2.0 * kxy.mean())


def polynomial_kernels(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(x.y / d + 1)^3 of all pairs: within `real`, within `fake`, and between them."""
    pairs = ((x, x), (y, y), (x, y))
    kxx, kyy, kxy = (polynomial_kernel(a, b, degree=3, coef0=1.0) for a, b in pairs)
    return kxx, kyy, kxy


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
    paired: bool = False,
) -> NDArray[np.float64]:
    """KID of weighted samples, and of bootstrap resamples of their groups.

    The estimator of `kid`, with each pair weighted by the product of its samples' weights. Pairs within a
    group do not count, just as `kid` does not pair a sample with itself: they are more alike than
    independent samples. A resample multiplies a sample's weight by how often its group was drawn, and stays
    unbiased. scipy's bootstrap repeats samples and cannot leave these pairs out; torchmetrics has no weights.

    Args:
        real: `float [M, D]`, fake: `float [N, D]`; weights and groups: one per sample.
        paired: both sides show the same groups (originals and their reconstructions). A resample then
            draws them once for both sides, and no image is compared with its own reconstruction.

    Returns:
        `float64 [1 + resamples]`, the estimate first; NaN for a resample of a single group. Resamples of
        the real side depend only on `seed`, so estimates against the same real samples are paired.

    Raises:
        ValueError: a side has only one group, or `paired` sides have different groups.
    """
    kxx, kyy, kxy = polynomial_kernels(np.asarray(real, np.float64), np.asarray(fake, np.float64))
    real_names, x = np.unique(real_groups, return_inverse=True)
    fake_names, y = np.unique(fake_groups, return_inverse=True)
    if min(len(real_names), len(fake_names)) < 2:
        raise ValueError("KID needs samples of two groups on each side")
    if paired and not np.array_equal(real_names, fake_names):
        raise ValueError("paired sides need the same groups")

    def draws(size: int, key: int) -> NDArray[np.float64]:
        rng = np.random.default_rng([seed, key])
        drawn = rng.multinomial(size, np.full(size, 1.0 / size), size=resamples)
        return np.concatenate([np.ones((1, size)), drawn])

    u = draws(len(real_names), 0)[:, x] * real_weights
    v = draws(len(fake_names), 0 if paired else 1)[:, y] * fake_weights
    with np.errstate(invalid="ignore"):
        within = mean_of_pairs(kxx, u, u, x, x) + mean_of_pairs(kyy, v, v, y, y)
        between = mean_of_pairs(kxy, u, v, x, y) if paired else mean_of_pairs(kxy, u, v)
    return within - 2.0 * between


def mean_of_pairs(
    kernel: NDArray[np.float64],
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    left_groups: NDArray[np.int64] | None = None,
    right_groups: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Weighted mean of a kernel `[M, N]` over pairs of different groups, `[R]`, one per row of weights.

    Args:
        left: weights `[R, M]`, right: weights `[R, N]`.
        left_groups: `[M]`, right_groups: `[N]`, numbers of groups. None: all pairs count.
    """
    if left_groups is None or right_groups is None:
        counted = np.ones_like(kernel)
    else:
        counted = (left_groups[:, None] != right_groups[None]).astype(np.float64)
    total = np.einsum("rn,rn->r", left @ (kernel * counted), right)
    return total / np.einsum("rn,rn->r", left @ counted, right)


class Classifier(Protocol):
    """What assigns classes to samples, such as a scikit-learn pipeline or a judge."""

    def predict(self, samples: NDArray[Any], /) -> NDArray[np.str_]:
        """Class of each sample, `str [N]`."""


def class_agreement(
    model: Classifier, samples: NDArray[Any], labels: NDArray[np.str_], groups: Groups | None = None
) -> dict[str, Any]:
    """Share of samples that a classifier assigns to the class they were generated for, in [0, 1].

    Args:
        model: fitted on real images.
        samples: what it classifies, `[N, ...]`, labels: the requested classes, `str [N]`.
        groups: group or scene of each sample; a reconstruction has its original's. None for generated
            images, which are independent.

    Returns:
        `mean`, its 95 % interval `low` and `high`, and the mean `per_class`.
    """
    hits = model.predict(samples) == labels
    per_class = {str(name): float(hits[labels == name].mean()) for name in np.unique(labels)}
    return {**bootstrap_mean(hits, groups), "per_class": per_class}


def memorisation_hits(
    train: Features, test: Features, fake: Features, train_groups: NDArray[Any]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Find generated images that are near-copies of training images, and the same for unseen real images.

    The threshold is how close different photographs come to each other. An image's own group does not count
    towards it: datasets contain one photograph in two encodings, and the distance between such twins would
    make a threshold that only a bit-exact copy falls below.
    A heavily compressed or blurred copy can lie farther from its original than two photographs of one class
    lie from each other; this metric misses such copies.

    Args:
        train: `float32 [M, D]`, test: unseen real images `[K, D]`, fake: generated images `[N, D]`.
        train_groups: near-duplicate group or scene of each training image, `[M]`, at least two groups.

    Returns:
        The threshold, a Euclidean distance: the 1st percentile, over training images, of the distance to
        the nearest image of another group. Then `float64 [N]` and `[K]`: 1 for each generated and each
        unseen real image that lies nearer to a training image than the threshold.

    Raises:
        ValueError: all training images belong to one group.
    """
    keys = np.unique(train_groups, return_inverse=True)[1]
    if keys.max() == 0:
        raise ValueError("all training images are of one group: the threshold needs at least two")
    threshold = float(np.percentile(nearest_distances(train, train, keys, keys), 1))
    hits = [(nearest_distances(side, train) < threshold).astype(np.float64) for side in (fake, test)]
    return threshold, hits[0], hits[1]


def nearest_distances(
    points: Features,
    others: Features,
    point_groups: NDArray[np.int64] | None = None,
    other_groups: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Euclidean distance from each point to the nearest of the others, `float64 [N]`, in bounded memory.

    Args:
        points: `[N, D]`, others: `[M, D]`.
        point_groups: group of each point, other_groups: of each other point. If both are given, others in
            the point's own group do not count.
    """

    def nearest(distances: NDArray[np.floating], start: int) -> NDArray[np.floating]:
        if point_groups is not None and other_groups is not None:
            own = point_groups[start : start + len(distances), None] == other_groups[None]
            distances = np.where(own, np.inf, distances)
        return distances.min(axis=1)

    chunks = pairwise_distances_chunked(
        points.astype(np.float64), others.astype(np.float64), reduce_func=nearest, working_memory=CHUNK_MIB
    )
    return np.concatenate(list(chunks))
