"""Metrics of drawn images against plain formulations and a published implementation."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from metaldefect.metrics import usefulness
from metaldefect.metrics.bootstrap import ratio_of_means
from metaldefect.metrics.generation import kid, kid_estimates, memorisation_hits
from metaldefect.metrics.generation_suite import Labelled, evaluate, nearest_neighbours, ratio_interval
from metaldefect.metrics.manifold import manifold_scores
from metaldefect.metrics.usefulness import chosen_weight, class_weights, gain, seed_and_group_interval


def normal(seed: int, size: tuple[int, int], shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) + shift).astype(np.float32)


def test_kid_is_torchmetrics_polynomial_mmd() -> None:
    x, y = normal(0, (30, 8)), normal(1, (30, 8), 0.5)
    published = float(poly_mmd(torch.from_numpy(x).double(), torch.from_numpy(y).double()))
    assert kid(x, y) == pytest.approx(published, rel=1e-6)


def test_kid_estimates_begin_with_kid_and_weights_are_repetitions() -> None:
    x, y = normal(0, (12, 5)), normal(1, (9, 5), 0.3)
    ones = np.ones(12), np.ones(9)
    estimates = kid_estimates(x, y, *ones, np.arange(12), np.arange(9), resamples=300)
    assert estimates.shape == (301,)
    assert estimates[0] == pytest.approx(kid(x, y))
    low, high = np.percentile(estimates[1:], [2.5, 97.5])
    assert low < estimates[0] < high
    # A weight of 0 takes a sample out
    weights = np.array([1.0] * 8 + [0.0] * 4)
    part = kid_estimates(x, y, weights, ones[1], np.arange(12), np.arange(9), resamples=1)
    assert part[0] == pytest.approx(kid(x[:8], y))


def test_kid_of_one_distribution_is_around_zero_even_when_resampled() -> None:
    x, y = normal(0, (60, 4)), normal(1, (60, 4))
    estimates = kid_estimates(x, y, np.ones(60), np.ones(60), np.arange(60), np.arange(60))
    spread = estimates[1:].std()
    assert abs(estimates[1:].mean() - estimates[0]) < 0.5 * spread


def test_manifold_scores_against_loops() -> None:
    real, fake, k = normal(0, (25, 3)), normal(1, (18, 3), 0.7), 4
    scores = manifold_scores(real, fake, k)

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(float(np.linalg.norm(points[i] - p)) for p in points)[k]

    within_real = np.array(
        [[np.linalg.norm(f - r) <= radius(real, j) for j, r in enumerate(real)] for f in fake]
    )
    within_fake = np.array(
        [[np.linalg.norm(f - r) <= radius(fake, i) for r in real] for i, f in enumerate(fake)]
    )
    assert scores.precision.tolist() == within_real.any(1).astype(float).tolist()
    assert scores.recall.tolist() == within_fake.any(0).astype(float).tolist()
    assert scores.density.tolist() == pytest.approx(within_real.sum(1) / k)
    assert scores.coverage.tolist() == within_real.any(0).astype(float).tolist()
    assert 0 < scores.precision.mean() < 1
    with pytest.raises(ValueError, match="k = 5 needs more than 5 samples a side, got 25 and 5"):
        manifold_scores(real, fake[:5])


def test_memorised_images_are_found() -> None:
    train = normal(0, (200, 6))
    copies = train[:4] + 1e-4
    threshold, of_fake, of_test = memorisation_hits(
        train, normal(1, (50, 6)), np.concatenate([copies, normal(2, (16, 6))])
    )
    assert threshold > 1e-3
    assert of_fake[:4].tolist() == [1.0] * 4
    assert of_fake.mean() < 0.35
    assert of_test.mean() < 0.1


def two_classes(seed: int, each: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of ten dimensions."""
    features = np.concatenate([normal(seed, (each, 10)), normal(seed + 1, (each, 10), distance)])
    return features, np.array(["a"] * each + ["b"] * each)


def test_gain_is_positive_for_good_images_and_negative_for_mislabelled_ones() -> None:
    train, test = two_classes(0, 40, 0.8), two_classes(10, 150, 0.8)
    good = two_classes(20, 200, 0.8)
    swapped = (good[0], np.where(good[1] == "a", "b", "a"))
    groups = list(range(300))
    helped = gain(train, good, test, groups, 3, range(5))
    assert helped["gain"]["low"] > 0
    difference = helped["real_and_synthetic"]["mean"] - helped["real"]["mean"]
    assert helped["gain"]["mean"] == pytest.approx(difference)
    assert gain(train, swapped, test, groups, 3, range(5), 3.0)["gain"]["high"] < 0


def test_real_images_weigh_the_same_with_and_without_drawn_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fit = usefulness.weighted_classifier
    monkeypatch.setattr(
        usefulness, "weighted_classifier", lambda x, y, weights: seen.append(weights) or fit(x, y, weights)
    )
    gain(two_classes(0, 40, 0.8), two_classes(20, 200, 0.8), two_classes(10, 9, 0.8), range(18), 5, [0], 0.3)
    alone, both = seen
    assert alone.tolist() == both[:10].tolist() == [1.0] * 10
    assert both[10:].sum() == pytest.approx(0.3 * alone.sum())


def test_the_weight_of_drawn_images_is_the_best_on_validation_images() -> None:
    train, validation = two_classes(0, 40, 0.8), two_classes(10, 150, 0.8)
    good = two_classes(20, 200, 0.8)
    swapped = (good[0], np.where(good[1] == "a", "b", "a"))
    assert chosen_weight(train, good, validation, 3, range(5), [0.001, 3.0]) == 3.0
    assert chosen_weight(train, swapped, validation, 3, range(5), [3.0, 0.001]) == 0.001


def test_class_weights_sum_to_one_a_class() -> None:
    labels = np.array(["a", "a", "b", "a"])
    assert class_weights(labels).tolist() == pytest.approx([1 / 3, 1 / 3, 1.0, 1 / 3])


def test_intervals_over_seeds_and_groups_are_wider_when_images_hang_together() -> None:
    rng = np.random.default_rng(0)
    scenes = rng.random(20) < 0.5
    values = np.repeat(scenes, 10)[None].astype(float).repeat(3, axis=0)
    alone = seed_and_group_interval(values, list(range(200)))
    grouped = seed_and_group_interval(values, np.repeat(np.arange(20), 10).tolist())
    assert alone["mean"] == grouped["mean"] == pytest.approx(scenes.mean())
    assert grouped["high"] - grouped["low"] > 2 * (alone["high"] - alone["low"])


def test_a_ratio_of_equal_values_is_one() -> None:
    values = np.random.default_rng(0).random(40) + 1
    assert ratio_interval(values, values, np.arange(40)) == pytest.approx([1.0, 1.0])


def test_ratio_of_independent_means() -> None:
    rng = np.random.default_rng(0)
    found = ratio_of_means(rng.normal(6.0, 1.0, 200), rng.normal(3.0, 1.0, 100))
    assert found["low"] < 2.0 < found["high"]
    assert found["high"] - found["low"] < 0.4
    few = ratio_of_means(rng.normal(6.0, 1.0, 20), rng.normal(3.0, 1.0, 10))
    assert few["high"] - few["low"] > found["high"] - found["low"]


def test_suite_calls_real_images_good_and_noise_bad() -> None:
    train, test = two_classes(0, 80, 3.0), two_classes(10, 40, 3.0)
    real = Labelled.ungrouped(*train), Labelled.ungrouped(*test)
    through = test[0] + normal(5, (80, 10)) * 0.3
    good = evaluate(*real, through, Labelled.ungrouped(*two_classes(30, 40, 3.0)), 0)
    noise = normal(40, (80, 10), 9.0)
    bad = evaluate(*real, through, Labelled.ungrouped(noise, test[1]), 0)
    assert "class_agreement_candidates" not in good
    chosen = evaluate(*real, through, real[1], 0, Labelled.ungrouped(noise, test[1]))
    assert chosen["class_agreement_candidates"] == bad["class_agreement"] != chosen["class_agreement"]
    assert good["class_agreement"]["mean"] > 0.95
    assert 0.9 < good["cas"]["ratio"] <= 1.05
    assert good["kid"]["interval_95"]["synthetic"][0] < 0.5 < bad["kid"]["synthetic"]
    assert good["manifold"]["synthetic"]["coverage"]["mean"] > 0.8
    assert bad["precision"] == bad["recall"] == 0.0
    assert good["diversity"]["a"]["ratio"] == pytest.approx(1.0, abs=0.15)
    low, high = good["interval_95"]["classifier_accuracy_on_real"]
    assert low <= good["classifier_accuracy_on_real"] <= high


def test_nearest_neighbours_come_nearest_first() -> None:
    train = np.array([[0.0], [5.0], [1.0]], np.float32)
    assert nearest_neighbours(train, np.array([[0.4]], np.float32), 3).tolist() == [[0, 2, 1]]
