"""Choose among several candidates per image: a classifier keeps those of the class that was asked for.

Rejection by a classifier, as Razavi, van den Oord and Vinyals (VQ-VAE-2, 2019) do it: guidance makes samples
more alike the stronger it is, so weak guidance and a choice afterwards leave more variety at equal fidelity.
The classifier learns from training images as the tokenizer gives them back, because drawn images look like
these. The result is judged by another one, which learns from real images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from metaldefect.feature_classifier import Features, classifier

Labels = NDArray[np.str_]


def accept(selector: Pipeline, features: Features, labels: Labels) -> NDArray[np.bool_]:
    """Which images the selector takes for the class that they were drawn for, `bool [N]`.

    Args:
        selector: a fitted classifier.
        features: `float32 [N, D]`, labels: what they were drawn for, `str [N]`.
    """
    return np.asarray(selector.predict(features) == labels)


def choose(
    selector: Pipeline, features: Features, labels: Labels, per_class: int, seed: int
) -> NDArray[np.int64]:
    """Indices of the candidates to keep, `int64 [classes * per_class]`, classes in order of appearance.

    Accepted candidates are drawn at random, not by how sure the selector is: the surest are the most alike.
    Where too few are accepted, the rest are those to which the selector gives the highest probability of
    their class.

    Args:
        selector: a fitted classifier.
        features: of the candidates, `[N, D]`.
        labels: what they were drawn for, `[N]`.
        per_class: how many to keep of each class.
        seed: of the choice.

    Raises:
        ValueError: a class has fewer candidates than are to be kept, or the selector does not know it.
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
        # Accepted ones first, in random order; then the rest, the likeliest first
        order = np.where(hit[places], 1.0 + rng.random(len(places)), probability[places, columns[name]])
        kept.append(np.sort(places[np.argsort(-order, kind="stable")[:per_class]]))
    return np.concatenate(kept)


def fit_selector(features: Features, labels: Labels, seed: int) -> Pipeline:
    """The classifier that chooses, from features of training images through the tokenizer."""
    return classifier(features, labels, seed)
