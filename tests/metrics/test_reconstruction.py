"""Metrics of images and tokens on cases worked out by hand, and against torchmetrics."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from metaldefect.feature_classifier import classifier
from metaldefect.metrics.generation import class_agreement
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
    assert psnr(image + 5, image) == pytest.approx(34.15140, abs=1e-5)  # 10 log10(255^2 / 5^2)


def test_ssim_and_psnr_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(96, 96)), 2.0) * 200 + 128
    image = np.clip(smooth, 0, 255).astype(np.uint8)
    other = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    pair = [torch.from_numpy(one)[None, None].double() for one in (other, image)]
    expected = structural_similarity_index_measure(*pair, data_range=255.0)
    assert ssim(other, image) == pytest.approx(float(expected), abs=2e-3)
    assert psnr(other, image) == pytest.approx(float(peak_signal_noise_ratio(*pair, data_range=255.0)))


def test_ssim_of_constant_images() -> None:
    # Wang et al. 2004, equation 13 without variance: (2 * 100 * 150 + C1) / (100^2 + 150^2 + C1), C1 = 6.5025
    a, b = np.full((32, 32), 100, np.uint8), np.full((32, 32), 150, np.uint8)
    assert ssim(a, b) == pytest.approx(0.923092, abs=1e-6)


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
    use = codebook_use(np.array([[3, 3], [3, 0]]), 4)
    assert use == {"used": 0.5, "perplexity": pytest.approx(1.754765, abs=1e-6)}  # 4 / 3^0.75


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
