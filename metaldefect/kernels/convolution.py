"""A convolution whose gradients are cheaper on a CPU than `nn.Conv2d`'s; the results are the same.

Measured gain (`python -m benchmarks.kernels --no-compile --rounds 5`, AMD EPYC, 2 cores, no bf16 units):
EfficientAD's whole step 2.6x together with `winograd.py`; alone it is slower there (0.86x).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metaldefect.kernels import winograd

# With at most this many input channels, oneDNN's weight gradient leaves the vector units idle.
FEW_CHANNELS = 4


def convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: int = 0,
    *,
    sparse_gradient: bool = False,
) -> Tensor:
    """`functional.conv2d` with stride 1, for training: weight and bias gradients are faster.

    oneDNN is slow at the bias gradient and at the first layer's weight gradient, which are matrix products
    here, and at weight gradients of padded convolutions, which get explicit padding here. Computes in
    autocast's dtype; in float32, large convolutions and their gradients use Winograd's algorithm.

    Args:
        images: `float [N, C, H, W]`.
        weight: `float [O, C, K, K]`.
        bias: `float [O]`.
        padding: zeros on each side.
        sparse_gradient: the output's gradient is zero at most positions, as with the hard feature loss:
            compute only the others.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        images, weight, bias = images.to(dtype), weight.to(dtype), bias.to(dtype)
    with torch.autocast("cpu", enabled=False):
        by_tiles = winograd.worthwhile(images, weight, padding)
        result: Tensor = _Convolution.apply(images, weight, bias, padding, sparse_gradient, by_tiles)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        padding: int,
        sparse_gradient: bool,
        by_tiles: bool,
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding, ctx.sparse_gradient, ctx.by_tiles = padding, sparse_gradient, by_tiles
        if by_tiles:
            return winograd.convolve(images, weight, bias, padding)
        return functional.conv2d(images, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        images, weight = ctx.saved_tensors
        padding = ctx.padding
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, weight.shape[0])
        bias_gradient = (rows.new_ones(1, len(rows)) @ rows)[0]
        if ctx.sparse_gradient:
            return *sparse_gradients(images, weight, padding, rows), bias_gradient, None, None, None
        if ctx.by_tiles:
            wanted = ctx.needs_input_grad[0]
            image_gradient, weight_gradient = winograd.gradients(gradient, images, weight, padding, wanted)
            return image_gradient, weight_gradient, bias_gradient, None, None, None
        image_gradient = None
        if ctx.needs_input_grad[0]:
            image_gradient = aten_gradients(gradient, images, weight, padding, (True, False))[0]
        if images.shape[1] <= FEW_CHANNELS:
            patches = patch_view(images, weight.shape[-1], padding).reshape(len(rows), -1)
            weight_gradient = from_patches(rows.t() @ patches, weight)
        else:
            padded = functional.pad(images, (padding,) * 4)
            weight_gradient = aten_gradients(gradient, padded, weight, 0, (False, True))[1]
        return image_gradient, weight_gradient, bias_gradient, None, None, None


def aten_gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """torch's own gradients of images and weight; undefined if not requested."""
    stride, dilation, sides = [1, 1], [1, 1], [padding, padding]
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, stride, sides, dilation, False, [0, 0], 1, [*wanted, False]
    )
    return result[0], result[1]


def patch_view(images: Tensor, kernel: int, padding: int) -> Tensor:
    """The patch under the kernel at every position: a view `[N, H', W', K, K, C]` of the padded images.

    Channels last, the memory order, so that patches are copied in long runs.
    """
    padded = functional.pad(images, (padding,) * 4).permute(0, 2, 3, 1).contiguous()
    return padded.unfold(1, kernel, 1).unfold(2, kernel, 1).permute(0, 1, 2, 4, 5, 3)


def from_patches(values: Tensor, weight: Tensor) -> Tensor:
    """Reshape `[O, K * K * C]`, in the order of `patch_view`, to `[O, C, K, K]`."""
    outputs, channels, kernel = weight.shape[:3]
    return values.view(outputs, kernel, kernel, channels).permute(0, 3, 1, 2)


def sparse_gradients(images: Tensor, weight: Tensor, padding: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of images and weight, computed only from positions with a nonzero output gradient.

    Args:
        images: `[N, C, H, W]`.
        weight: `[O, C, K, K]`.
        padding: of the convolution.
        rows: gradient of the output, `[N * H' * W', O]`.
    """
    kernel = weight.shape[-1]
    active = rows.any(dim=1).nonzero()[:, 0]
    patches = patch_view(images, kernel, padding)
    count, height, width = patches.shape[:3]
    outputs, channels = weight.shape[:2]
    image, top, left = active // (height * width), active // width % height, active % width
    some = rows[active]
    weight_gradient = from_patches(some.t() @ patches[image, top, left].flatten(1), weight)
    columns = some @ weight.permute(0, 2, 3, 1).reshape(outputs, -1)
    columns = columns.float().view(len(active), kernel, kernel, channels)
    full_height, full_width = height + kernel - 1, width + kernel - 1
    total = columns.new_zeros(count * full_height * full_width, channels)
    corner = (image * full_height + top) * full_width + left
    for row in range(kernel):
        for column in range(kernel):
            total.index_add_(0, corner + row * full_width + column, columns[:, row, column])
    padded = total.to(images.dtype).view(count, full_height, full_width, channels).permute(0, 3, 1, 2)
    inside = padded[..., padding : full_height - padding, padding : full_width - padding]
    return inside, weight_gradient
