"""Which candidates are kept: the accepted ones at random, then the likeliest, never the judge's choice."""

from __future__ import annotations

import numpy as np
import pytest

from metaldefect.synthesis.selection import accept, choose, fit_selector

NAMES = np.array(["dent", "scratch"])


def blobs(count: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes around (-1, 0) and (1, 0)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(NAMES, count)
    centres = np.where(labels == "dent", -1.0, 1.0)[:, None] * np.array([1.0, 0.0])
    return (centres + spread * rng.normal(size=(2 * count, 2))).astype(np.float32), labels


def test_accepted_candidates_come_before_all_others() -> None:
    selector = fit_selector(*blobs(50, 0.2, 0), seed=0)
    features, labels = blobs(20, 1.0, 1)
    hit = accept(selector, features, labels)
    assert 0 < hit.sum() < len(hit)
    for per_class in (3, int(min(hit[labels == name].sum() for name in NAMES))):
        kept = choose(selector, features, labels, per_class, seed=0)
        assert hit[kept].all()
        assert labels[kept].tolist() == np.repeat(NAMES, per_class).tolist()


def test_where_few_are_accepted_the_likeliest_follow() -> None:
    selector = fit_selector(*blobs(50, 0.2, 0), seed=0)
    # Of "dent" one is right; the wrong ones lie ever farther on the other side
    features = np.array([[2.0, 0], [-1.0, 0], [0.5, 0], [1.0, 0], [1.0, 0], [1.0, 0]], np.float32)
    labels = np.array(["dent"] * 4 + ["scratch"] * 2)
    assert choose(selector, features, labels, 1, seed=3)[0] == 1
    assert choose(selector, features, labels, 2, seed=3).tolist() == [1, 2, 4, 5]


def test_accepted_candidates_are_chosen_at_random_and_repeatably() -> None:
    selector = fit_selector(*blobs(50, 0.2, 0), seed=0)
    features, labels = blobs(40, 0.2, 1)
    draws = [choose(selector, features, labels, 10, seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    # Not the surest: these lie farther from the border than the mean of the class
    distance = np.abs(features[:, 0])
    surest = np.sort(distance[labels == "dent"])[-10:].mean()
    assert distance[draws[0][:10]].mean() < surest


def test_too_few_candidates_and_unknown_classes_are_errors() -> None:
    selector = fit_selector(*blobs(50, 0.2, 0), seed=0)
    features, labels = blobs(4, 0.2, 1)
    with pytest.raises(ValueError, match="4 candidates of 'dent', 5 are to be kept"):
        choose(selector, features, labels, 5, seed=0)
    with pytest.raises(ValueError, match="does not know \\['pit'\\]"):
        choose(selector, features[:1], np.array(["pit"]), 1, seed=0)
