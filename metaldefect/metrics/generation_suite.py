"""Evaluate generated images from their features in one call: all metrics, yardsticks and intervals.

Yardsticks: unseen real images against training images (the best any generator can reach), and unseen real
images through the tokenizer (the best that a MaskGIT on this tokenizer can reach).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.neighbors import NearestNeighbors

from metaldefect.feature_classifier import Features, classifier
from metaldefect.metrics.bootstrap import bootstrap_mean, ratio_interval
from metaldefect.metrics.generation import (
    class_agreement,
    kid_estimates,
    memorisation_hits,
)
from metaldefect.metrics.manifold import NEIGHBOURS, manifold_scores
from metaldefect.metrics.usefulness import class_weights

Labels = NDArray[np.str_]


class Labelled(NamedTuple):
    """Features of images with their classes and groups: scenes, or one group per image if independent.

    Intervals resample whole groups, and the memorisation threshold ignores an image's own group.
    """

    features: Features  # [N, D]
    labels: Labels  # [N]
    groups: NDArray[Any]  # [N]

    @classmethod
    def ungrouped(cls, features: Features, labels: Labels) -> Labelled:
        """Put each image in its own group."""
        return cls(features, labels, np.arange(len(features)))


def evaluate(
    train: Labelled,
    test: Labelled,
    through: Features,
    fake: Labelled,
    seed: int,
    candidates: Labelled | None = None,
) -> dict[str, Any]:
    """Compute all metrics of generated images that take only seconds.

    Args:
        train: real training images, test: real held-out images.
        through: the held-out images through the tokenizer, in the same order.
        fake: generated images.
        seed: of the classifiers.
        candidates: all generated images, if `fake` was selected from more.

    Returns:
        `kid`, `manifold`, `precision`, `recall`, `class_agreement` (and `class_agreement_candidates` if
        `fake` was selected from more), `classifier_accuracy_on_real`, `cas`, `diversity`, `memorisation`;
        `left_out` names those that the images do not allow, with the reason; intervals as `interval_95`
        beside the numbers, or as `low` and `high`.
    """
    found = [
        manifold_metrics(train, test, through, fake),
        class_metrics(train, test, through, fake, seed, candidates),
    ]
    missing = {name: reason for part in found for name, reason in part.pop("left_out", {}).items()}
    return {
        "kid": kid_with_yardsticks(train, test, through, fake, seed),
        **found[0],
        **found[1],
        "diversity": diversity(test, fake),
        "memorisation": memorisation(train, test, fake),
        "left_out": missing,
    }


def manifold_metrics(train: Labelled, test: Labelled, through: Features, fake: Labelled) -> dict[str, Any]:
    """The metrics of `evaluate` that need neighbours; with too few images, only why they are missing."""
    fewest = min(len(side.features) for side in (train, test, fake))
    if fewest <= NEIGHBOURS:
        reason = f"{fewest} images on a side, at least {NEIGHBOURS + 1} are needed"
        return {"left_out": {"manifold, precision, recall": reason}}
    manifold = {
        "synthetic": manifold_means(test, fake),
        "reconstruction": manifold_means(test, Labelled(through, test.labels, test.groups)),
        "real": manifold_means(test, train),
    }
    return {
        "manifold": manifold,
        "precision": manifold["synthetic"]["precision"]["mean"],
        "recall": manifold["synthetic"]["recall"]["mean"],
    }


def class_metrics(
    train: Labelled,
    test: Labelled,
    through: Features,
    fake: Labelled,
    seed: int,
    candidates: Labelled | None,
) -> dict[str, Any]:
    """The metrics of `evaluate` that need a classifier; with a single class, only why they are missing."""
    if len(np.unique(train.labels)) < 2:
        return {"left_out": {"class_agreement, cas": "there is only one class"}}
    judge = classifier(train.features, train.labels, seed)
    student = classifier(fake.features, fake.labels, seed)
    judged = (judge.predict(test.features) == test.labels).astype(float)
    learnt = (student.predict(test.features) == test.labels).astype(float)
    accuracy, score = bootstrap_mean(judged, list(test.groups)), bootstrap_mean(learnt, list(test.groups))
    return {
        "class_agreement": class_agreement(judge, fake.features, fake.labels),
        **(
            {"class_agreement_candidates": class_agreement(judge, candidates.features, candidates.labels)}
            if candidates is not None
            else {}
        ),
        "class_agreement_reconstruction": class_agreement(judge, through, test.labels, test.groups),
        "classifier_accuracy_on_real": accuracy["mean"],
        "cas": {
            "accuracy": score["mean"],
            "ratio": score["mean"] / accuracy["mean"],
            "interval_95": {
                "accuracy": [score["low"], score["high"]],
                "ratio": ratio_interval(learnt, judged, test.groups),
            },
        },
        "interval_95": {"classifier_accuracy_on_real": [accuracy["low"], accuracy["high"]]},
    }


def kid_with_yardsticks(
    train: Labelled, test: Labelled, through: Features, fake: Labelled, seed: int
) -> dict[str, Any]:
    """KID to held-out images (of generated, reconstructed, training ones), and of generated to reconstructed.

    Weighted so that every class counts the same on both sides: real classes differ in size.
    """
    sides = {
        "synthetic": fake,
        "reconstruction": Labelled(through, test.labels, test.groups),
        "real_floor": train,
    }
    values, drawn = {}, {}
    for name, other in sides.items():
        estimates = kid_estimates(
            test.features, other.features, class_weights(test.labels), class_weights(other.labels),
            test.groups, other.groups, seed=seed, paired=name == "reconstruction",
        )  # fmt: skip
        values[name], drawn[name] = estimates[0], estimates[1:]
    values["ratio"] = values["synthetic"] / values["reconstruction"]
    drawn["ratio"] = drawn["synthetic"] / drawn["reconstruction"]
    intervals = {name: np.nanpercentile(found, [2.5, 97.5]).tolist() for name, found in drawn.items()}
    return {**values, "interval_95": intervals}


def manifold_means(real: Labelled, other: Labelled) -> dict[str, Any]:
    """Precision, recall, density and coverage, with intervals that resample groups."""
    scores = manifold_scores(real.features, other.features)
    sides = {"precision": other, "recall": real, "density": other, "coverage": real}
    return {name: bootstrap_mean(getattr(scores, name), list(side.groups)) for name, side in sides.items()}


def diversity(real: Labelled, fake: Labelled) -> dict[str, dict[str, float]]:
    """Mean Euclidean feature distance between two images of a class.

    Returns:
        Per class `synthetic`, `real` and their `ratio`; a ratio far below 1 means collapse. Leaves out
        classes with fewer than two images on a side.
    """
    found = {}
    for name in np.unique(fake.labels):
        drawn, true = (side.features[side.labels == name] for side in (fake, real))
        if min(len(drawn), len(true)) > 1:
            of_fake, of_real = float(pdist(drawn).mean()), float(pdist(true).mean())
            found[str(name)] = {"synthetic": of_fake, "real": of_real, "ratio": of_fake / of_real}
    return found


def memorisation(train: Labelled, test: Labelled, fake: Labelled) -> dict[str, Any]:
    """Shares of generated and of held-out images that lie nearer to a training image than other photographs.

    Returns:
        `threshold` (feature distance, see `memorisation_hits`), `fake_below` and `test_below` in [0, 1]
        with `interval_95`. No sign of copying if `fake_below` is not above `test_below`.
    """
    threshold, of_fake, of_test = memorisation_hits(
        train.features, test.features, fake.features, train.groups
    )
    fakes, tests = bootstrap_mean(of_fake, list(fake.groups)), bootstrap_mean(of_test, list(test.groups))
    return {
        "threshold": threshold,
        "fake_below": fakes["mean"],
        "test_below": tests["mean"],
        "interval_95": {
            "fake_below": [fakes["low"], fakes["high"]],
            "test_below": [tests["low"], tests["high"]],
        },
    }


def nearest_neighbours(train: Features, fake: Features, count: int = 3) -> NDArray[np.int64]:
    """Indices of the training images nearest to each generated image, nearest first, `int64 [N, count]`.

    Args:
        train: `float32 [M, D]`, M at least `count`; fake: `float32 [N, D]`.
    """
    return NearestNeighbors(n_neighbors=count).fit(train).kneighbors(fake, return_distance=False)
