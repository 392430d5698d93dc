"""Winograd's convolutions against torch's direct ones in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metaldefect.kernels import winograd
from metaldefect.kernels.convolution import convolution

# (images, channels, outputs, height, width, kernel, padding): sides that tiles cover and
# that they do not, both kernels, every padding of the networks, more tiles than one chunk holds.
CASES = [
    (2, 128, 144, 33, 27, 4, 3),
    (1, 130, 128, 36, 36, 3, 1),
    (3, 128, 128, 35, 36, 4, 0),
    (1, 128, 128, 64, 71, 3, 0),
]


def tensors(case: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    count, channels, outputs, height, width, kernel, _padding = case
    torch.manual_seed(0)
    weight = torch.randn(outputs, channels, kernel, kernel) / (channels * kernel**2) ** 0.5
    return torch.randn(count, channels, height, width), weight, torch.randn(outputs)


def close(found: Tensor | None, expected: Tensor) -> None:
    """Within 1e-4 of the expected tensor's standard deviation everywhere."""
    assert found is not None
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max() / expected.detach().std()) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_the_direct_ones(case: tuple[int, ...]) -> None:
    images, weight, bias = tensors(case)
    padding = case[-1]
    assert winograd.worthwhile(images, weight, padding)
    leaves = [tensor.double().requires_grad_() for tensor in (images, weight, bias)]
    expected = functional.conv2d(*leaves, padding=padding)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)

    close(winograd.convolve(images, weight, bias, padding), expected)
    of_images, of_weight = winograd.gradients(gradient.float(), images, weight, padding, True)
    assert leaves[0].grad is not None
    assert leaves[1].grad is not None
    close(of_images, leaves[0].grad)
    close(of_weight, leaves[1].grad)
    without, alone = winograd.gradients(gradient.float(), images, weight, padding, False)
    assert without is None
    assert torch.equal(alone, of_weight)


def test_the_transforms_are_those_of_the_paper() -> None:
    """F(6, 3): six outputs of a sliding dot product from eight products."""
    maps = winograd.transforms(3)
    signal, weights = np.random.default_rng(0).normal(size=(2, 8)), np.array([0.5, -1.0, 2.0])
    for row in signal:
        products = (maps.images.numpy() @ row) * (maps.weights.numpy() @ weights)
        np.testing.assert_allclose(
            maps.outputs.numpy() @ products, np.correlate(row, weights, "valid"), atol=1e-5
        )


def test_an_image_gives_the_same_bits_alone_and_in_a_batch() -> None:
    images, weight, bias = tensors(CASES[0])
    together = winograd.convolve(images, weight, bias, 3)
    assert torch.equal(together[1:], winograd.convolve(images[1:], weight, bias, 3))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dtype": torch.bfloat16}, "bf16 units are faster, and its rounding errors would grow"),
        ({"channels": 64}, "the transforms cost as much as they save"),
        ({"kernel": 5}, "no transforms"),
        ({"side": 16}, "too few tiles"),
    ],
)
def test_what_gains_nothing_is_left_to_torch(change: dict[str, object], why: str) -> None:
    settings: dict[str, object] = {"dtype": torch.float32, "channels": 128, "kernel": 3, "side": 64, **change}
    kernel, channels, side = settings["kernel"], settings["channels"], settings["side"]
    images = torch.zeros(1, channels, side, side, dtype=settings["dtype"])  # type: ignore[call-overload]
    weight = torch.zeros(128, channels, kernel, kernel, dtype=settings["dtype"])  # type: ignore[call-overload]
    assert not winograd.worthwhile(images, weight, 1), why


@pytest.mark.parametrize("case", CASES)
def test_training_in_float32_takes_it_and_its_gradients(
    case: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, weight, bias = tensors(case)
    padding, taken = case[-1], []
    original = winograd.gradients
    monkeypatch.setattr(winograd, "gradients", lambda *given: taken.append(1) or original(*given))

    def run(convolve: object, dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.detach().to(dtype, copy=True).requires_grad_() for tensor in (images, weight, bias)]
        output = convolve(*leaves, padding=padding)  # type: ignore[operator]
        output.square().sum().backward()
        return [output, *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    for found, expected in zip(
        run(convolution, torch.float32), run(functional.conv2d, torch.float64), strict=True
    ):
        close(found, expected)
    assert taken
