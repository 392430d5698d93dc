"""Convolutions by Winograd's minimal filtering, for CPUs that multiply nothing faster than float32.

A tile of 8 x 8 inputs costs 64 multiplications a channel pair: for 6 x 6 outputs under a 3 x 3 kernel, where
the direct sum has 324, or for 5 x 5 outputs under a 4 x 4 kernel, where it has 400. The rest is additions.
The same holds for both gradients, which are the transposed steps. Results differ from the direct sum by less
than 1e-4 of their standard deviation in float32, which training does not notice; inference and export use
the direct sum.

Measured gain (`python -m benchmarks.kernels`, `tokenizer_training_kernels_gain`): not measured yet.

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

# Values of an input tile along an axis. Its outputs are 6 under a kernel of 3 and 5 under a kernel of 4.
SIDE = 8
KERNELS = (3, 4)
# Below these the transforms cost more than the multiplications they save.
FEWEST_CHANNELS, FEWEST_TILES = 128, 32
# A chunk's transformed tiles stay in the processor's cache between their two matrix products.
CHUNK = 160
# Small numbers keep the transforms' rounding errors small; infinity is the last point.
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)


@dataclass(frozen=True)
class Transforms:
    """The three linear maps along one axis; tiles take them along both. P = 8 inputs, K weights, T outputs.

    Attributes:
        images: `float32 [P, P]`, input tile to products' space.
        weights: `float32 [P, K]`, kernel to products' space.
        outputs: `float32 [T, P]`, products to outputs.
    """

    images: Tensor
    weights: Tensor
    outputs: Tensor


@cache
def transforms(kernel: int) -> Transforms:
    """Cook and Toom's construction, transposed (arXiv 1509.09308, section 4).

    A product of polynomials of degrees T - 1 and K - 1 is found from its values at P points; transposed,
    the same three maps give T outputs of a sliding dot product with K weights.
    """

    def values(coefficients: int) -> np.ndarray:
        """Polynomials' values at the points: Vandermonde rows, and the leading coefficient for infinity."""
        rows = np.vander(np.array(POINTS), coefficients, increasing=True)
        return np.vstack([rows, np.eye(coefficients)[-1:]])

    images, weights = np.linalg.inv(values(SIDE)).T, values(kernel)
    # What is taken from one factor's rows is given to the other's: no transformed tile is large.
    scale = np.abs(images).max(axis=1, keepdims=True)

    matrices = (images / scale, weights * scale, values(outputs_of(kernel)).T)
    return Transforms(*(torch.from_numpy(np.ascontiguousarray(matrix)).float() for matrix in matrices))


def along_both_axes(matrix: Tensor, tiles: Tensor) -> Tensor:
    """`matrix [A, B]` applied to the rows and the columns of tiles `[B, B, ...]`, as `[A A, X]`."""
    after, before = matrix.shape
    rows = (matrix @ tiles.reshape(before, -1)).view(after, before, -1)
    return torch.bmm(matrix.expand(after, after, before), rows).view(after * after, -1)


def worthwhile(images: Tensor, weight: Tensor, padding: int, fewest_channels: int = FEWEST_CHANNELS) -> bool:
    """Whether a convolution with stride 1 is faster so than directly (and possible at all).

    Args:
        images: `[N, C, H, W]`.
        weight: `[O, C, K, K]`.
        padding: zeros on each side.
        fewest_channels: with fewer, inputs or outputs, it is not.
    """
    outputs, channels, kernel = weight.shape[:3]
    return (
        images.device.type == "cpu"
        and images.dtype == weight.dtype == torch.float32
        and kernel in KERNELS
        and min(outputs, channels) >= fewest_channels
        and grid(images.shape[2], kernel, padding) * grid(images.shape[3], kernel, padding) >= FEWEST_TILES
    )


def grid(pixels: int, kernel: int, padding: int) -> int:
    """Tiles that cover the outputs along one axis."""
    return -(-(pixels + 2 * padding - kernel + 1) // outputs_of(kernel))


def outputs_of(kernel: int) -> int:
    """Outputs of a tile along an axis."""
    return SIDE - kernel + 1


@dataclass(frozen=True)
class _Tiles:
    """Where the tiles of images lie, and how they are cut out."""

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
        """(image, first row of tiles, row after the last) of pieces that fit the cache."""
        pieces = -(-self.rows * self.columns // CHUNK)
        rows = -(-self.rows // pieces)  # all pieces about alike
        for image in range(count):
            for first in range(0, self.rows, rows):
                yield image, first, min(self.rows, first + rows)

    def padded(self, images: Tensor) -> Tensor:
        """`[N, C, H, W]` as `[N, H', W', C]` with zeros around, the last tiles complete."""
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
    """`functional.conv2d` with stride 1, where `worthwhile` says so.

    Args:
        images: `float32 [N, C, H, W]`, best channels last.
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
    # Of the very size: autograd's functions may not return views.
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
    """Gradients of the images (None where not wanted) and of the weight: `convolve`'s steps transposed.

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
    # One tile more than there are: the last ones reach over the edge.
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
    """Add tiles `[rows, P, columns, P, C]`, a step from one another, into `total` `[H, W, C]` below `top`.

    A tile is at most two steps wide: its first step and the rest fall into one cell of the grid each.
    """
    rows, side, columns = tiles.shape[:3]
    for down in (0, step):
        for across in (0, step):
            cells = total[top + down : top + down + rows * step, across : across + columns * step]
            cells = cells.unflatten(0, (rows, step)).unflatten(2, (columns, step))
            tall, wide = min(side - down, step), min(side - across, step)
            cells[:, :tall, :, :wide] += tiles[:, down : down + tall, :, across : across + wide]
