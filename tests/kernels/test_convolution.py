from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from metaldefect.kernels.convolution import convolution

# channels, outputs, kernel, padding: the first layer, a wide kernel, a narrow one, the last layer.
SHAPES = [(3, 8, 4, 3), (6, 10, 4, 3), (6, 8, 3, 1), (8, 12, 4, 0)]


def gradients(
    convolve: Callable[..., torch.Tensor], tensors: list[torch.Tensor], mask: torch.Tensor, **options: object
) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = convolve(*leaves, **options)
    (output.float() * mask).square().sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def random_tensors(channels: int, outputs: int, kernel: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(outputs, channels, kernel, kernel)
    return [torch.randn(2, channels, 11, 14), weight, torch.randn(outputs)]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("channels", "outputs", "kernel", "padding"), SHAPES)
def test_gradients_are_torchs(channels: int, outputs: int, kernel: int, padding: int, sparse: bool) -> None:
    tensors = random_tensors(channels, outputs, kernel)
    size = [side + 2 * padding - kernel + 1 for side in (11, 14)]
    mask = (torch.rand(2, 1, *size) < (0.1 if sparse else 1.0)).float()
    expected = gradients(functional.conv2d, tensors, mask, padding=padding)
    found = gradients(convolution, tensors, mask, padding=padding, sparse_gradient=sparse)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("channels", "outputs", "kernel", "padding"), SHAPES)
def test_bfloat16_gradients_are_within_its_rounding(
    channels: int, outputs: int, kernel: int, padding: int, sparse: bool
) -> None:
    tensors = [tensor.bfloat16().float() for tensor in random_tensors(channels, outputs, kernel)]
    size = [side + 2 * padding - kernel + 1 for side in (11, 14)]
    mask = (torch.rand(2, 1, *size) < (0.1 if sparse else 1.0)).float()
    expected = gradients(functional.conv2d, tensors, mask, padding=padding)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(convolution, tensors, mask, padding=padding, sparse_gradient=sparse)
    assert found[0].dtype is torch.bfloat16
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours.float(), theirs, rtol=0.05, atol=0.02 * scale)


def test_without_a_gradient_anywhere_all_gradients_are_zero() -> None:
    tensors = random_tensors(3, 8, 4)
    found = gradients(convolution, tensors, torch.zeros(()), sparse_gradient=True)
    assert all(not gradient.any() for gradient in found[1:])
