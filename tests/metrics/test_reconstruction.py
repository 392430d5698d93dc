"""Reconstruction and generation metrics on cases worked out by hand."""

import numpy as np
import pytest

from metaldefect.feature_classifier import classifier
from metaldefect.metrics.bootstrap import bootstrap_mean, half_sample_interval
from metaldefect.metrics.generation import class_agreement, kid
from metaldefect.metrics.reconstruction import codebook_use, edge_iou, edges, psnr, ssim
from metaldefect.metrics.seams import border_gradient


def square(left: int) -> np.ndarray:
    image = np.full((64, 64), 60, np.uint8)
    image[20:44, left : left + 24] = 200
    return image


def test_equal_images() -> None:
    image = square(20)
    assert ssim(image, image) == pytest.approx(1.0)
    assert psnr(image, image) == 100.0
    assert edge_iou(image, image) == 1.0


def test_psnr_of_a_known_error() -> None:
    image = np.full((8, 8), 100, np.uint8)
    assert psnr(image + 5, image) == pytest.approx(10 * np.log10(255**2 / 25))


def test_ssim_matches_its_formula_for_constant_images() -> None:
    a, b = np.full((32, 32), 100, np.uint8), np.full((32, 32), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_edge_iou_of_a_shifted_square() -> None:
    assert edges(square(20)).sum() > 60
    # Vertical sides miss by a pixel, horizontal ones overlap but for the ends
    exact, tolerant = edge_iou(square(20), square(21)), edge_iou(square(20), square(21), tolerance=1)
    assert 0.2 < exact < 0.6
    assert tolerant == 1.0
    assert edge_iou(square(2), square(38)) < 0.2
    flat = np.full((64, 64), 9, np.uint8)
    assert edge_iou(flat, flat) == 1.0
    assert edge_iou(flat, square(20)) == 0.0


def test_codebook_use() -> None:
    use = codebook_use(np.array([0, 0, 1, 1]), 8)
    assert use == {"used": 0.25, "perplexity": pytest.approx(2.0)}


def test_bootstrap_draws_whole_groups() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    plain = bootstrap_mean(values)
    assert plain["mean"] == pytest.approx(values.mean())
    assert plain["high"] - plain["low"] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    repeated = bootstrap_mean(np.repeat(values, 4), np.repeat(np.arange(400), 4).tolist())
    assert repeated["high"] - repeated["low"] == pytest.approx(plain["high"] - plain["low"], rel=0.1)


def test_kid_against_loops() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(1.0, 1.0, size=(4, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    xx = np.mean([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    assert kid(x, y) == pytest.approx(xx + yy - 2 * xy)
    big = rng.normal(size=(400, 8))
    assert abs(kid(big[:200], big[200:])) < 0.1


def test_class_agreement_counts_hits() -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 40)
    features = rng.normal(size=(80, 4)).astype(np.float32) + (labels == "b")[:, None] * 6.0
    model = classifier(features, labels, 0)
    assert class_agreement(model, features, labels)["mean"] == 1.0
    swapped = np.where(labels == "a", "b", labels)
    result = class_agreement(model, features, swapped)
    assert result["mean"] == 0.5
    assert result["per_class"] == {"b": 0.5}


def test_border_gradient_of_a_step() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:, 10:] = True
    image = np.where(mask, 110, 100).astype(np.uint8)
    assert border_gradient(image, mask) == pytest.approx(5.0)
    assert border_gradient(np.full((20, 20), 100, np.uint8), mask) == 0.0


def test_half_samples_estimate_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, 400)
    found = half_sample_interval(lambda chosen: float(values[chosen].mean()), list(range(400)), resamples=400)
    assert found["mean"] == pytest.approx(values.mean())
    error = values.std() / 20
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * error, rel=0.15)
    with pytest.raises(ValueError, match="two groups"):
        half_sample_interval(lambda chosen: 0.0, ["a", "a"])
