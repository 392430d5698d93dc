"""Convolutions by Winograd's minimal filtering, for CPUs whose fastest multiplications are float32.

A tile of 8 x 8 inputs takes 64 multiplications per channel pair. It yields 6 x 6 outputs of a 3 x 3 kernel,
where the direct sum takes 324, or 5 x 5 outputs of a 4 x 4 kernel, where it takes 400. The rest is additions.
The same holds for both gradients, which are the transposed steps. In float32, results differ from the direct
sum by less than 1e-4 of their standard deviation, which does not affect training; inference and export use
the direct sum.

Measured gain (`python -m benchmarks.kernels --no-compile --rounds 5`, AMD EPYC, 2 cores, no bf16 units):
EfficientAD's whole step 2.6x together with `convolution.py`.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Inputs of a tile along an axis. It has 6 outputs with a kernel of 3 and 5 with a kernel of 4.
SIDE = 8
KERNELS = (3, 4)
# Below these, the transforms cost more than the multiplications they save.
FEWEST_CHANNELS, FEWEST_TILES = 128, 32
# Chunk size: its transformed tiles stay in the processor's cache between their two matrix products.
CHUNK = 160
# Small numbers keep the transforms' rounding errors small; infinity is the last point.
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)


@dataclass(frozen=True)
class Transforms:
    """The three linear maps along one axis, applied along both. P = 8 inputs, K weights, T outputs.

    Attributes:
        images: `float32 [P, P]`, input tile to product space.
        weights: `float32 [P, K]`, kernel to product space.
        outputs: `float32 [T, P]`, product space to outputs.
    """

    images: Tensor
    weights: Tensor
    outputs: Tensor


@cache
def transforms(kernel: int) -> Transforms:
    """Build the maps by the transposed Toom-Cook construction (arXiv 1509.09308, section 4).

    The values at P points determine a product of polynomials of degrees T - 1 and K - 1; transposed, the same
    three maps give T outputs of a sliding dot product with K weights.
    """

    def values(coefficients: int) -> np.ndarray:
        """Values of polynomials at the points: Vandermonde rows; for infinity, the leading coefficient."""
        rows = np.vander(np.array(POINTS), coefficients, increasing=True)
        return np.vstack([rows, np.eye(coefficients)[-1:]])

    images, weights = np.linalg.inv(values(SIDE)).T, values(kernel)
    # Dividing one factor's rows and multiplying the other's keeps transformed tiles small.
    scale = np.abs(images).max(axis=1, keepdims=True)

    matrices = (images / scale, weights * scale, values(outputs_of(kernel)).T)
    return Transforms(*(torch.from_numpy(np.ascontiguousarray(matrix)).float() for matrix in matrices))


def along_both_axes(matrix: Tensor, tiles: Tensor) -> Tensor:
    """Apply `matrix [A, B]` to the rows and columns of tiles `[B, B, ...]`; returns `[A A, X]`."""
    after, before = matrix.shape
    rows = (matrix @ tiles.reshape(before, -1)).view(after, before, -1)
    return torch.bmm(matrix.expand(after, after, before), rows).view(after * after, -1)


def worthwhile(images: Tensor, weight: Tensor, padding: int) -> bool:
    """Whether a stride-1 convolution can use Winograd's algorithm and is faster with it.

    Args:
        images: `[N, C, H, W]`.
        weight: `[O, C, K, K]`.
        padding: zeros on each side.
    """
    outputs, channels, kernel = weight.shape[:3]
    return (
        images.device.type == "cpu"
        and images.dtype == weight.dtype == torch.float32
        and kernel in KERNELS
        and min(outputs, channels) >= FEWEST_CHANNELS
        and grid(images.shape[2], kernel, padding) * grid(images.shape[3], kernel, padding) >= FEWEST_TILES
    )


def grid(pixels: int, kernel: int, padding: int) -> int:
    """Number of tiles that cover the outputs along one axis."""
    return -(-(pixels + 2 * padding - kernel + 1) // outputs_of(kernel))


def outputs_of(kernel: int) -> int:
    """Outputs per tile along an axis."""
    return SIDE - kernel + 1


@dataclass(frozen=True)
class _Tiles:
    """Layout of the tiles in images, and how to cut them out."""

    height: int
    width: int
    kernel: int
    padding: int

    @property
    def outputs(self) -> int:
        return outputs_of(self.kernel)

    @property
    def rows(self) -> int:
        return grid(self.height, self.kernel, self.padding)

    @property
    def columns(self) -> int:
        return grid(self.width, self.kernel, self.padding)

    def chunks(self, count: int) -> Iterator[tuple[int, int, int]]:
        """(image, first row of tiles, row after the last) of pieces that fit into the cache."""
        pieces = -(-self.rows * self.columns // CHUNK)
        rows = -(-self.rows // pieces)  # makes all pieces about equally large
        for image in range(count):
            for first in range(0, self.rows, rows):
                yield image, first, min(self.rows, first + rows)

    def padded(self, images: Tensor) -> Tensor:
        """Pad `[N, C, H, W]` with zeros to `[N, H', W', C]`, so that the last tiles are complete."""
        bottom = self.rows * self.outputs + self.kernel - 1 - self.height - self.padding
        right = self.columns * self.outputs + self.kernel - 1 - self.width - self.padding
        sides = (0, 0, self.padding, right, self.padding, bottom)
        return functional.pad(images.permute(0, 2, 3, 1).contiguous(), sides)

    def cut(self, image: Tensor, first: int, last: int) -> Tensor:
        """Overlapping tiles of rows `first` to `last` of `[H', W', C]`, as `[P, P, rows, columns, C]`."""
        strip = image[first * self.outputs : last * self.outputs + self.kernel - 1]
        tiles = strip.unfold(0, SIDE, self.outputs).unfold(1, SIDE, self.outputs)
        return tiles.permute(3, 4, 0, 1, 2)


def convolve(images: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """`functional.conv2d` with stride 1, for convolutions that are `worthwhile`.

    Args:
        images: `float32 [N, C, H, W]`, preferably channels last.
        weight: `float32 [O, C, K, K]`.
        bias: `float32 [O]`.
        padding: zeros on each side.

    Returns:
        `float32 [N, O, H', W']`, channels last.
    """
    maps, tiles = transforms(weight.shape[-1]), _tiles(images, weight, padding)
    outputs, channels, kernel = weight.shape[:3]
    step = tiles.outputs
    filters = along_both_axes(maps.weights, weight.permute(2, 3, 1, 0)).view(-1, channels, outputs)
    source = tiles.padded(images)
    height, width = (side + 2 * padding - kernel + 1 for side in images.shape[2:])
    # Exactly this size: autograd functions may not return views.
    result = torch.empty((len(images), outputs, height, width), memory_format=torch.channels_last)
    pixels = result.permute(0, 2, 3, 1)
    for image, first, last in tiles.chunks(len(images)):
        cut = along_both_axes(maps.images, tiles.cut(source[image], first, last))
        products = torch.bmm(cut.view(len(filters), -1, channels), filters)
        block = along_both_axes(maps.outputs, products.view(SIDE, SIDE, -1))
        block = block.view(step, step, last - first, tiles.columns, outputs)
        block = block.permute(2, 0, 3, 1, 4)
        target = pixels[image, first * step : last * step]
        if target.shape[:2] == ((last - first) * step, tiles.columns * step):
            torch.add(block, bias, out=target.view(block.shape))
        else:
            strip = (block + bias).reshape(-1, tiles.columns * step, outputs)
            target.copy_(strip[: len(target), :width])
    return result


def gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, padding: int, images_wanted: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of the images (None if not requested) and of the weight: `convolve`'s steps transposed.

    Args:
        gradient: of the output, `float32 [N, O, H', W']`.
        images: as given to `convolve`.
        weight: as given to `convolve`.
        padding: as given to `convolve`.
        images_wanted: whether to compute the images' gradient.
    """
    maps, tiles = transforms(weight.shape[-1]), _tiles(images, weight, padding)
    outputs, channels, kernel = weight.shape[:3]
    step = tiles.outputs
    places = SIDE**2
    below, right = tiles.rows * step - gradient.shape[2], tiles.columns * step - gradient.shape[3]
    given = functional.pad(gradient.permute(0, 2, 3, 1), (0, 0, 0, right, 0, below)).contiguous()
    source = tiles.padded(images)
    filter_gradient = weight.new_zeros(places, channels, outputs)
    filters = along_both_axes(maps.weights, weight.permute(2, 3, 0, 1)).view(-1, outputs, channels)
    # One extra tile, because the last tiles reach over the edge.
    total = images.new_zeros(
        len(images) if images_wanted else 0, (tiles.rows + 1) * step, (tiles.columns + 1) * step, channels
    )
    for image, first, last in tiles.chunks(len(images)):
        strip = given[image, first * step : last * step].view(-1, step, tiles.columns, step, outputs)
        products = along_both_axes(maps.outputs.t(), strip.permute(1, 3, 0, 2, 4)).view(places, -1, outputs)
        cut = along_both_axes(maps.images, tiles.cut(source[image], first, last)).view(places, -1, channels)
        filter_gradient.baddbmm_(cut.transpose(1, 2), products)
        if images_wanted:
            shape = (SIDE, SIDE, last - first, tiles.columns, channels)
            uncut = along_both_axes(maps.images.t(), torch.bmm(products, filters).view(shape)).view(shape)
            _add_overlapping(total[image], uncut.permute(2, 0, 3, 1, 4), first * step, step)
    square = filter_gradient.view(SIDE, SIDE, channels, outputs)
    weight_gradient = along_both_axes(maps.weights.t(), square)
    weight_gradient = weight_gradient.view(kernel, kernel, channels, outputs).permute(3, 2, 0, 1)
    if not images_wanted:
        return None, weight_gradient
    height, width = images.shape[2:]
    inside = total[:, padding : padding + height, padding : padding + width]
    return inside.permute(0, 3, 1, 2), weight_gradient


def _tiles(images: Tensor, weight: Tensor, padding: int) -> _Tiles:
    return _Tiles(images.shape[2], images.shape[3], weight.shape[-1], padding)


def _add_overlapping(total: Tensor, tiles: Tensor, top: int, step: int) -> None:
    """Add tiles `[rows, P, columns, P, C]`, `step` apart, into `total` `[H, W, C]` below `top`.

    A tile is at most two steps wide, so its first step and the rest each fall into one cell of the grid.
    """
    rows, side, columns = tiles.shape[:3]
    for down in (0, step):
        for across in (0, step):
            cells = total[top + down : top + down + rows * step, across : across + columns * step]
            cells = cells.unflatten(0, (rows, step)).unflatten(2, (columns, step))
            tall, wide = min(side - down, step), min(side - across, step)
            cells[:, :tall, :, :wide] += tiles[:, down : down + tall, :, across : across + wide]
