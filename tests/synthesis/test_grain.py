"""The tokenizer's residual: measured per code, drawn with the same statistics."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.ndimage import gaussian_filter

from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.grain import BANDS, GRAIN, SCALES, Grain, bands, code_shares, unit_power


def test_bands_sum_to_the_image_less_what_is_coarser() -> None:
    image = np.random.default_rng(0).normal(size=(2, 96, 96)).astype(np.float32)
    parts = bands(image)
    assert parts.shape == (BANDS, 2, 96, 96)
    # Gaussians one after the other are one Gaussian of the last scale, but for truncated tails
    coarse = np.stack([gaussian_filter(one, SCALES[-1]) for one in image])
    np.testing.assert_allclose(parts.sum(axis=0) + coarse, image, atol=5e-3)


def test_unit_power_is_that_of_white_noise() -> None:
    noise = np.random.default_rng(1).normal(size=(4, 256, 256)).astype(np.float32)
    measured = (bands(noise) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(measured[:9], unit_power()[:9], rtol=0.05)


def draw(grain: Grain, codes: torch.Tensor, size: int, seed: int) -> np.ndarray:
    return grain.draw(codes, size, [image_generator(seed, number) for number in range(len(codes))])


def two_codes(shape: tuple[int, int]) -> np.ndarray:
    """Code 0 on the left half, 1 on the right."""
    codes = np.zeros(shape, np.int64)
    codes[:, shape[1] // 2 :] = 1
    return codes


def test_drawn_grain_is_as_strong_as_the_residual_of_each_code() -> None:
    rng = np.random.default_rng(2)
    codes = np.stack([two_codes((8, 8))] * 6)
    deviations = np.where(codes[0] == 1, 20.0, 5.0).repeat(16, 0).repeat(16, 1)
    reconstructions = np.full((6, 128, 128), 128, np.float32)
    images = np.clip(np.rint(reconstructions + deviations * rng.normal(size=(6, 128, 128))), 0, 255)
    grain = Grain.fit(images.astype(np.uint8), reconstructions, codes, 4)
    assert grain.deviation.shape == (4, BANDS)
    drawn = draw(grain, torch.from_numpy(codes), 128, 0)
    # Away from the border: coarse bands of one code reach into the other
    left, right = drawn[:, :, :32], drawn[:, :, 96:]
    assert float(left.std()) == pytest.approx(5.0, rel=0.15)
    assert float(right.std()) == pytest.approx(20.0, rel=0.15)
    # A code that was never seen has the mean of all
    unseen = draw(grain, torch.full((1, 8, 8), 3), 128, 0)
    assert 5.0 < float(unseen.std()) < 20.0


def test_grain_keeps_the_direction_of_the_residual() -> None:
    rng = np.random.default_rng(3)
    stripes = np.stack([gaussian_filter(rng.normal(size=(128, 128)), (0, 6)) for _ in range(4)])
    images = np.clip(128 + 30 * stripes / stripes.std(), 0, 255).astype(np.uint8)
    codes = np.zeros((4, 8, 8), np.int64)
    grain = Grain.fit(images, np.full(images.shape, 128, np.float32), codes, 1)
    drawn = draw(grain, torch.from_numpy(codes), 128, 0)
    along = float((drawn[:, :, 1:] * drawn[:, :, :-1]).mean())
    across = float((drawn[:, 1:] * drawn[:, :-1]).mean())
    assert along > 3 * abs(across)


def test_grain_is_as_strong_as_in_the_measured_image_with_the_most_like_codes() -> None:
    rng = np.random.default_rng(5)
    # Code 0 everywhere but for a corner, which tells rough images (code 1 there) from smooth ones (code 2)
    codes = np.zeros((6, 8, 8), np.int64)
    codes[:3, :2, :2], codes[3:, :2, :2] = 1, 2
    deviations = np.array([24.0, 24.0, 24.0, 6.0, 6.0, 6.0])[:, None, None]
    images = np.clip(np.rint(128 + deviations * rng.normal(size=(6, 128, 128))), 0, 255).astype(np.uint8)
    grain = Grain.fit(images, np.full(images.shape, 128, np.float32), codes, 3)
    drawn = draw(grain, torch.from_numpy(codes[[0, 5]]), 128, 0)
    # Code 0 alone has the mean power of both
    rough, smooth = drawn[:, 64:, 64:].std(axis=(1, 2))
    assert float(rough) == pytest.approx(24.0, rel=0.15)
    assert float(smooth) == pytest.approx(6.0, rel=0.15)


def test_shares_of_codes_measure_likeness() -> None:
    codes = np.array([[[0, 1], [2, 2]], [[2, 0], [1, 2]], [[3, 3], [3, 3]]])
    likeness = code_shares(codes, 4) @ code_shares(codes, 4).T
    np.testing.assert_allclose(likeness, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-6)


def test_grain_depends_on_the_generator_alone_and_survives_the_disk(tmp_path: Path) -> None:
    shares = code_shares(np.random.default_rng(4).integers(5, size=(3, 4, 4)), 5)
    grain = Grain(torch.rand(5, BANDS) * 10, torch.rand(3, BANDS) + 0.5, torch.from_numpy(shares))
    codes = torch.randint(5, (2, 4, 4))
    first = draw(grain, codes, 64, 7)
    assert Grain.load(tmp_path) is None
    grain.save(tmp_path)
    again = Grain.load(tmp_path)
    assert again is not None
    np.testing.assert_array_equal(draw(again, codes, 64, 7), first)
    assert not np.array_equal(draw(grain, codes, 64, 8), first)


def test_grain_of_an_earlier_version_draws_by_codes_alone(tmp_path: Path) -> None:
    safetensors.torch.save_file({"deviation": torch.full((5, BANDS), 7.0)}, tmp_path / GRAIN)
    grain = Grain.load(tmp_path)
    assert grain is not None
    drawn = draw(grain, torch.randint(5, (4, 8, 8)), 128, 0)
    expected = Grain(torch.full((5, BANDS), 7.0), torch.ones(1, BANDS), torch.ones(1, 5))
    again = draw(expected, torch.zeros(4, 8, 8, dtype=torch.int64), 128, 0)
    np.testing.assert_array_equal(drawn, again)


def test_no_images_is_an_error() -> None:
    nothing = np.zeros((0, 64, 64))
    with pytest.raises(ValueError, match="no images"):
        Grain.fit(nothing.astype(np.uint8), nothing.astype(np.float32), np.zeros((0, 4, 4), np.int64), 4)


def test_grain_of_an_image_does_not_depend_on_the_images_beside_it() -> None:
    codes = torch.randint(5, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    grain = Grain(torch.rand(5, BANDS) * 10, torch.ones(1, BANDS), torch.ones(1, 5))
    together = draw(grain, codes, 32, 7)
    alone = grain.draw(codes[2:], 32, [image_generator(7, 2)])
    np.testing.assert_allclose(alone[0], together[2], atol=1e-5)
