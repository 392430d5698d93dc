"""Metrics of drawn images against plain formulations and a published implementation."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.image.kid import poly_mmd

from metaldefect.backbones import pooled_features
from metaldefect.metrics import generation, manifold, usefulness
from metaldefect.metrics.generation import kid, kid_estimates, memorisation_hits
from metaldefect.metrics.generation_suite import (
    Labelled,
    evaluate,
    kid_with_yardsticks,
    memorisation,
    nearest_neighbours,
)
from metaldefect.metrics.manifold import manifold_scores
from metaldefect.metrics.usefulness import chosen_weight, class_weights, gain, seed_and_group_interval

NEU_DET = Path(__file__).resolve().parents[2] / "../shared/data/neu_det.tar"


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


def test_kid_worked_out_by_hand() -> None:
    # Kernel (xy + 1)^3. Within {0, 1}: 1. Within {1, 2, 0}: 27, 1, 1. Between: 1, 1, 1, 8, 27, 1.
    assert kid([[0.0], [1.0]], [[1.0], [2.0], [0.0]]) == pytest.approx(1 + 29 / 3 - 2 * 39 / 6)
    with pytest.raises(ValueError, match="two samples on each side, got 1 and 2"):
        kid([[0.0]], [[0.0], [1.0]])


def test_a_perfect_reconstruction_has_no_kid_and_an_interval_without_width() -> None:
    x, groups = with_twins(normal(0, (20, 5)))
    ones = np.ones(len(x))
    estimates = kid_estimates(x, x, ones, ones, groups, groups, paired=True)
    assert estimates == pytest.approx(np.zeros(201), abs=1e-9)
    # Drawn on each side apart, the same images would differ by chance
    assert kid_estimates(x, x, ones, ones, groups, groups).std() > 0.01
    with pytest.raises(ValueError, match="paired sides need the same groups"):
        kid_estimates(x, x, ones, ones, groups, groups + 1, paired=True)
    with pytest.raises(ValueError, match="two groups"):
        kid_estimates(x, x, ones, ones, np.zeros(40), groups)


def test_the_suite_gives_a_perfect_reconstruction_no_kid() -> None:
    train, fake = (Labelled.ungrouped(*two_classes(seed, 20, 0.8)) for seed in (0, 30))
    features, scenes = with_twins(two_classes(10, 10, 0.8)[0])
    test = Labelled(features, np.tile(np.repeat(["a", "b"], 10), 2), scenes)
    with np.errstate(divide="ignore", invalid="ignore"):  # of the ratio to it
        found = kid_with_yardsticks(train, test, features, fake, 0)
    assert found["reconstruction"] == pytest.approx(0.0, abs=1e-9)
    assert found["interval_95"]["reconstruction"] == pytest.approx([0.0, 0.0], abs=1e-9)
    low, high = found["interval_95"]["synthetic"]
    assert low < found["synthetic"] < high


def test_twins_of_photographs_leave_kid_where_it_is() -> None:
    x, groups = with_twins(normal(0, (60, 4)))
    y = normal(1, (80, 4))
    ones, own = np.ones(80), np.arange(80)
    once = kid_estimates(x[:60], y, ones[:60], ones, groups[:60], own)
    twice = kid_estimates(x, y, np.ones(120), ones, groups, own)
    assert twice[0] == pytest.approx(once[0], abs=0.05)
    assert twice[1:].std() == pytest.approx(once[1:].std(), rel=0.05)
    # Counted as independent images, twins pretend that real images are alike
    assert kid(x, y) > twice[0] + 0.05


def test_manifold_scores_worked_out_by_hand() -> None:
    # Radii to the nearest neighbour: real 30, 1, 1, 2, 4; drawn 1.75, 1.75, 17.75
    real = np.array([[-30.0], [0.0], [1.0], [3.0], [7.0]], np.float32)
    fake = np.array([[0.5], [2.25], [20.0]], np.float32)
    scores = manifold_scores(real, fake, k=1)
    assert scores.precision.tolist() == [1.0, 1.0, 0.0]
    assert scores.recall.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert scores.density.tolist() == [2.0, 1.0, 0.0]
    assert scores.coverage.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="k = 5 needs more than 5 samples on each side, got 5 and 3"):
        manifold_scores(real, fake)


def test_density_and_coverage_of_one_distribution_are_what_the_paper_says() -> None:
    # Naeem et al. 2020, section 3.3: density 1; coverage 1 - (N-1)...(N-k) / (M+N-1)...(M+N-k)
    n, m, k = 200, 100, 5
    expected = 1 - np.prod([(n - i) / (m + n - i) for i in range(1, k + 1)])
    assert expected == pytest.approx(0.8716, abs=1e-4)
    found = [manifold_scores(normal(2 * s, (n, 3)), normal(2 * s + 1, (m, 3)), k) for s in range(20)]
    assert np.mean([scores.density.mean() for scores in found]) == pytest.approx(1.0, abs=0.03)
    assert np.mean([scores.coverage.mean() for scores in found]) == pytest.approx(expected, abs=0.02)


def with_twins(photographs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of photographs that come twice each, as JPEG and as BMP, and their groups."""
    twins = photographs + normal(9, photographs.shape) * 0.01
    return np.concatenate([photographs, twins]), np.tile(np.arange(len(photographs)), 2)


def test_copies_are_found_among_twins_and_unseen_images_are_not() -> None:
    train, groups = with_twins(normal(0, (200, 6)))
    copies = train[:4] + normal(3, (4, 6)) * 0.05  # farther than twins are, far nearer than photographs
    drawn = np.concatenate([copies, normal(2, (16, 6))])
    threshold, of_drawn, of_unseen = memorisation_hits(train, normal(1, (50, 6)), drawn, groups)
    assert 0.2 < threshold < 1.0
    assert of_drawn[:4].tolist() == [1.0] * 4
    assert of_drawn[4:].mean() < 0.1
    assert of_unseen.mean() < 0.1
    found = memorisation(
        Labelled(train, np.full(400, "a"), groups),
        Labelled.ungrouped(normal(1, (50, 6)), np.full(50, "a")),
        Labelled.ungrouped(drawn, np.full(20, "a")),
    )
    assert found["threshold"] == threshold
    assert found["fake_below"] == pytest.approx(0.2, abs=0.06)
    assert found["test_below"] < 0.1


@pytest.mark.skipif(not NEU_DET.is_file(), reason="no NEU-DET in ../shared/data")
def test_copies_of_real_photographs_are_found_among_jpeg_twins() -> None:
    def encoded(image: Image.Image, quality: int) -> np.ndarray:
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=quality)
        return np.asarray(Image.open(stream).convert("L"))

    with tarfile.open(NEU_DET) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith("5.jpg") and "crazing" in name)
        photographs = [Image.open(tar.extractfile(name)).convert("L") for name in names]
    train, unseen = photographs[::2], photographs[1::2]
    assert len(train) >= 12
    twins = [encoded(image, 95) for image in train]
    features, groups = np.stack([*map(np.asarray, train), *twins]), np.tile(np.arange(len(train)), 2)
    copies = np.stack([encoded(image, 85) for image in train])
    _, of_copies, of_unseen = memorisation_hits(
        pooled_features(features), pooled_features(np.stack([*map(np.asarray, unseen)])),
        pooled_features(copies), groups,
    )  # fmt: skip
    assert of_copies.mean() > 0.8
    assert of_unseen.mean() < 0.4


def test_the_memorisation_threshold_of_points_on_a_line() -> None:
    # Distances to another group are 10, 7, 7, 7.01 and 39.99; to any other image the smallest is 0.01.
    train = np.array([[0.0], [3.0], [10.0], [10.01], [50.0]], np.float32)
    groups = np.array(["a", "a", "b", "b", "c"])
    threshold, of_drawn, of_unseen = memorisation_hits(
        train, np.array([[30.0]], np.float32), np.array([[56.0], [58.0]], np.float32), groups
    )
    assert threshold == pytest.approx(7.0, abs=0.02)
    assert of_drawn.tolist() == [1.0, 0.0]
    assert of_unseen.tolist() == [0.0]
    with pytest.raises(ValueError, match="all training images are of one group"):
        memorisation_hits(train, train, train, np.zeros(5))


def test_nearest_distances_are_the_same_in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    train, groups = with_twins(normal(0, (300, 6)))
    real, fake = normal(1, (400, 6)), normal(2, (300, 6))
    unseen = normal(4, (50, 6))
    whole = memorisation_hits(train, unseen, fake, groups), manifold_scores(real, fake)
    monkeypatch.setattr(generation, "CHUNK_MIB", 0.05)
    monkeypatch.setattr(manifold, "CHUNK_MIB", 0.05)
    parts = memorisation_hits(train, unseen, fake, groups), manifold_scores(real, fake)
    for one, other in zip((*whole[0], *whole[1]), (*parts[0], *parts[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


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


def test_intervals_over_seeds_and_groups_have_the_width_of_the_binomial() -> None:
    values = np.repeat(np.arange(40) % 2, 10)[None].astype(float).repeat(3, axis=0)
    alone = seed_and_group_interval(values, list(range(400)))
    grouped = seed_and_group_interval(values, np.repeat(np.arange(40), 10).tolist())
    for found, count in ((alone, 400), (grouped, 40)):
        assert found["mean"] == 0.5
        assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.5 / count**0.5, rel=0.1)
    # Seeds count too: three that differ by 1 have a standard error of sqrt(2 / 3 / 3)
    seeds = seed_and_group_interval(np.arange(3.0)[:, None].repeat(40, axis=1), list(range(40)))
    assert seeds["mean"] == 1.0
    assert seeds["high"] - seeds["low"] == pytest.approx(2 * 1.96 * (2 / 9) ** 0.5, rel=0.2)


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


def test_every_interval_of_the_real_side_widens_when_images_share_scenes() -> None:
    train = Labelled.ungrouped(*two_classes(0, 80, 0.8))
    drawn, asked = two_classes(30, 40, 0.8)
    fake = Labelled.ungrouped(drawn * 0.7 + 0.6, asked)
    photographs, labels = two_classes(10, 24, 0.8)
    photographs[::6] = train.features[:8]
    features = np.repeat(photographs, 10, axis=0) + normal(7, (480, 10)) * 0.4
    through = features + np.repeat(normal(8, (48, 10)), 10, axis=0)
    names, scenes = np.repeat(labels, 10), np.repeat(np.arange(48), 10)
    alone = evaluate(train, Labelled.ungrouped(features, names), through, fake, 0)
    grouped = evaluate(train, Labelled(features, names, scenes), through, fake, 0)

    def widths(found: dict) -> dict[str, float]:
        intervals = {f"kid {name}": bounds for name, bounds in found["kid"]["interval_95"].items()}
        intervals |= {f"cas {name}": bounds for name, bounds in found["cas"]["interval_95"].items()}
        intervals["accuracy"] = found["interval_95"]["classifier_accuracy_on_real"]
        intervals["test_below"] = found["memorisation"]["interval_95"]["test_below"]
        for name, value in (
            ("agreement", found["class_agreement_reconstruction"]),
            ("recall", found["manifold"]["synthetic"]["recall"]),
            ("coverage", found["manifold"]["synthetic"]["coverage"]),
            ("precision", found["manifold"]["reconstruction"]["precision"]),
        ):
            intervals[name] = [value["low"], value["high"]]
        return {name: bounds[1] - bounds[0] for name, bounds in intervals.items()}

    narrow, wide = widths(alone), widths(grouped)
    for name in wide:
        assert wide[name] > 1.3 * narrow[name], name
    # What is drawn is independent of the scenes
    assert grouped["class_agreement"] == alone["class_agreement"]
