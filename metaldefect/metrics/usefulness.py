"""How useful generated images are: accuracy of classifiers trained on them, alone or with real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from metaldefect.metrics.bootstrap import Groups, group_numbers

Features = NDArray[np.float32]
Labels = NDArray[np.str_]


def weighted_classifier(features: Features, labels: Labels, weights: NDArray[np.float64]) -> Pipeline:
    """Logistic regression on standardised features with sample weights; 1 is a sample's normal weight."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    return model.fit(features, labels, logisticregression__sample_weight=weights)


def class_weights(labels: Labels) -> NDArray[np.float64]:
    """Sample weights that add up to 1 in each class."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1.0 / counts[inverse]


def gain_hits(
    train: tuple[Features, Labels],
    fake: tuple[Features, Labels],
    test: tuple[Features, Labels],
    per_class: int | None,
    seeds: Sequence[int],
    synthetic_weight: float = 1.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return which test images are classified correctly after training on real images, without and with fake.

    Real images weigh 1 on average in both trainings. Splitting a fixed total weight among more images would
    shrink the real images' weight against the coefficient penalty and so change the classifier.

    Args:
        train: real images to choose from, fake: generated images, test: real images.
        per_class: real images per class, drawn with each seed; None takes all.
        seeds: one pair of classifiers per seed.
        synthetic_weight: total weight of a class's generated images, if its real images total 1.

    Returns:
        Hits, 0 or 1, `[seeds, test]` each: real alone, and real with generated images.
    """
    alone, both = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        chosen = np.concatenate(
            [rng.permutation(np.flatnonzero(train[1] == name))[:per_class] for name in np.unique(train[1])]
        )
        features, labels = train[0][chosen], train[1][chosen]
        unit = len(chosen) / len(np.unique(labels))  # scales weights that sum to 1 per class to a mean of 1
        weights = unit * class_weights(labels)
        alone.append(weighted_classifier(features, labels, weights).predict(test[0]) == test[1])
        joined = weighted_classifier(
            np.concatenate([features, fake[0]]),
            np.concatenate([labels, fake[1]]),
            np.concatenate([weights, unit * synthetic_weight * class_weights(fake[1])]),
        )
        both.append(joined.predict(test[0]) == test[1])
    return np.array(alone, np.float64), np.array(both, np.float64)


def seed_and_group_interval(
    values: NDArray[np.float64], groups: Groups, *, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Mean of `values` with a 95 % bootstrap interval that resamples seeds and groups independently.

    Args:
        values: `[seeds, images]`.
        groups: group or scene of each image; at least two.

    Returns:
        `mean`, `low`, `high`, in the unit of `values`.

    Raises:
        ValueError: fewer than two groups.
    """
    keys = group_numbers(groups, values.shape[1])
    counts = np.bincount(keys).astype(float)
    sums = np.stack([np.bincount(keys, weights=row) for row in values])
    rng = np.random.default_rng(seed)
    seeds_drawn, groups_drawn = (
        rng.multinomial(size, np.full(size, 1.0 / size), size=resamples) for size in sums.shape
    )
    means = np.einsum("rs,sg,rg->r", seeds_drawn, sums, groups_drawn, optimize=True)
    means /= len(values) * (groups_drawn @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def gain(
    train: tuple[Features, Labels],
    fake: tuple[Features, Labels],
    test: tuple[Features, Labels],
    test_groups: Groups,
    per_class: int | None,
    seeds: Sequence[int],
    synthetic_weight: float = 1.0,
) -> dict[str, Any]:
    """Accuracy with real images alone, with generated images added, and the difference.

    Args:
        test_groups: group or scene of each test image; other arguments as in `gain_hits`.

    Returns:
        `real`, `real_and_synthetic`, and `gain` (the difference), each with `mean`, `low`, `high` over
        seeds and test groups; in [0, 1], the gain in [-1, 1].
    """
    alone, both = gain_hits(train, fake, test, per_class, seeds, synthetic_weight)
    return {
        "real": seed_and_group_interval(alone, test_groups),
        "real_and_synthetic": seed_and_group_interval(both, test_groups),
        "gain": seed_and_group_interval(both - alone, test_groups),
    }


def chosen_weight(
    train: tuple[Features, Labels],
    fake: tuple[Features, Labels],
    validation: tuple[Features, Labels],
    per_class: int | None,
    seeds: Sequence[int],
    weights: Sequence[float],
) -> float:
    """Return the synthetic weight with the largest gain on validation images; the first if several tie.

    Args:
        weights: tried in this order; other arguments as in `gain_hits`.
    """

    def gained(weight: float) -> float:
        alone, both = gain_hits(train, fake, validation, per_class, seeds, weight)
        return float((both - alone).mean())

    return max(weights, key=gained)
