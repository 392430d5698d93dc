"""How good drawn images are: KID, precision and recall, class agreement, usefulness, memorisation.

All work on feature vectors. The pipeline's extractor is EfficientNet-Lite0 (1,280 pooled features):
its numbers compare with each other, not with the Inception numbers of the literature.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from metaldefect.metrics.bootstrap import bootstrap_mean

Features = NDArray[np.float32]


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


def precision_recall(real: Features, fake: Features, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019).

    Precision: share of fake samples within some real sample's distance to its k-th neighbour. Recall:
    the same with the roles exchanged.
    """

    def covered(points: Features, by: Features) -> float:
        radius = np.sort(cdist(by, by), axis=1)[:, min(k, len(by) - 1)]
        return float((cdist(points, by) <= radius).any(axis=1).mean())

    return covered(fake, real), covered(real, fake)


def classifier(features: Features, labels: NDArray[np.str_], seed: int) -> Pipeline:
    """Logistic regression on standardised features, classes weighted to count equally."""
    model = LogisticRegression(max_iter=2000, C=0.1, class_weight="balanced", random_state=seed)
    return make_pipeline(StandardScaler(), model).fit(features, labels)


def class_agreement(model: Pipeline, features: Features, labels: NDArray[np.str_]) -> dict[str, object]:
    """Share of samples that a classifier gives the class they were drawn for: mean, interval, per class."""
    hits = model.predict(features) == labels
    per_class = {str(name): float(hits[labels == name].mean()) for name in np.unique(labels)}
    return {**bootstrap_mean(hits), "per_class": per_class}


def memorisation(train: Features, test: Features, fake: Features) -> dict[str, float]:
    """Are drawn images copies? Nearest-train distances against those of unseen real images.

    `threshold` is the 1st percentile of train-to-train nearest distances (self excluded, exact repeats
    left out); `fake_below` and `test_below` are the shares of samples nearer to a train image than that.
    """
    within = cdist(train, train)
    np.fill_diagonal(within, np.inf)
    nearest = within.min(axis=1)
    threshold = float(np.percentile(nearest[nearest > 1e-6], 1))
    return {
        "threshold": threshold,
        "fake_below": float((cdist(fake, train).min(axis=1) < threshold).mean()),
        "test_below": float((cdist(test, train).min(axis=1) < threshold).mean()),
    }
