"""Select among several candidates per image: a classifier keeps those it assigns to the requested class.

Rejection by a classifier follows Razavi, van den Oord and Vinyals (VQ-VAE-2, 2019): stronger guidance makes
samples more alike, so weak guidance followed by selection keeps more variety at equal fidelity. The
classifier learns from training images; another one, which shares nothing with it, evaluates the result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from metaldefect.feature_classifier import Features, classifier

Labels = NDArray[np.str_]


def accept(selector: Pipeline, features: Features, labels: Labels) -> NDArray[np.bool_]:
    """Which images the selector assigns to their requested class, `bool [N]`.

    Args:
        selector: a fitted classifier.
        features: `float32 [N, D]`, labels: the requested classes, `str [N]`.
    """
    return np.asarray(selector.predict(features) == labels)


def choose(
    selector: Pipeline, features: Features, labels: Labels, per_class: int, seed: int
) -> NDArray[np.int64]:
    """Indices of the candidates to keep, `int64 [classes * per_class]`, classes in order of appearance.

    Draws accepted candidates at random rather than by confidence: those with the highest confidence are the
    most alike. If too few are accepted, fills up with those to which the selector gives the highest
    probability of their class.

    Args:
        selector: a fitted classifier.
        features: of the candidates, `[N, D]`.
        labels: the requested classes, `[N]`.
        per_class: candidates to keep per class.
        seed: of the random choice.

    Raises:
        ValueError: a class has fewer than `per_class` candidates, or the selector does not know it.
    """
    names = list(dict.fromkeys(labels.tolist()))
    if unknown := sorted(set(names) - set(selector.classes_)):
        raise ValueError(f"the selector does not know {unknown}: it was fitted on {list(selector.classes_)}")
    probability = selector.predict_proba(features)
    columns = {str(name): column for column, name in enumerate(selector.classes_)}
    hit = accept(selector, features, labels)
    rng = np.random.default_rng(seed)
    kept = []
    for name in names:
        places = np.flatnonzero(labels == name)
        if len(places) < per_class:
            raise ValueError(f"{len(places)} candidates of {name!r}, {per_class} are to be kept")
        # Accepted ones first, in random order; then the rest, most probable first
        order = np.where(hit[places], 1.0 + rng.random(len(places)), probability[places, columns[name]])
        kept.append(np.sort(places[np.argsort(-order, kind="stable")[:per_class]]))
    return np.concatenate(kept)


def fit_selector(features: Features, labels: Labels, seed: int) -> Pipeline:
    """Fit the selecting classifier to features of training images through the tokenizer."""
    return classifier(features, labels, seed)
