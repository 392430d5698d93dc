"""How visible the grid of token cells is in generated images: 1.0 means invisible."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaldefect.images import U8, grey_stack
from metaldefect.metrics.bootstrap import Groups, ratio_interval

Values = NDArray[np.float64]

# Images whose steps are held in memory at the same time.
BATCH = 64


class CellSteps(NamedTuple):
    """Mean absolute grey-level steps between neighbouring pixels, one value per image."""

    across: Values  # [N]: from one cell to the next
    inside: Values  # [N]: within a cell


def cell_steps(images: U8, cell: int) -> CellSteps:
    """Return the mean steps across the borders of token cells and inside the cells, in luminance.

    A step is the absolute difference, in grey levels, between two neighbouring pixels of a row or column.
    It crosses a border if the second pixel is the first of its cell.

    Args:
        images: `uint8 [N, H, W]` or `[N, H, W, 3]`, N at least 1.
        cell: side of a token's cell in pixels, at least 2; the grid starts at the upper left corner.

    Returns:
        Means per image, `float64 [N]` each.

    Raises:
        ValueError: wrong shape or dtype, no images, or a cell size that leaves no border or no inside.
    """
    if images.ndim not in (3, 4) or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"expected uint8 [N, H, W] with N > 0, got {images.dtype} {list(images.shape)}")
    images = grey_stack(images)
    height, width = images.shape[1:]
    if not 2 <= cell < max(height, width):
        raise ValueError(f"cells of {cell} pixels: expected 2 to {max(height, width) - 1} for these images")
    parts = [steps_of(images[start : start + BATCH], cell) for start in range(0, len(images), BATCH)]
    return CellSteps(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def steps_of(images: U8, cell: int, corner: tuple[int, int] = (0, 0)) -> CellSteps:
    """`cell_steps` for one batch of crops whose upper left pixel has these coordinates on the grid.

    NaN where there is no border, or nothing but borders.
    """
    across, inside = np.zeros(len(images)), np.zeros(len(images))
    borders = insides = 0
    for axis in (1, 2):
        steps = np.abs(np.diff(images.astype(np.int16), axis=axis))
        crosses = (corner[axis - 1] + np.arange(1, images.shape[axis])) % cell == 0
        of_borders = np.compress(crosses, steps, axis=axis)
        of_insides = np.compress(~crosses, steps, axis=axis)
        across += of_borders.sum(axis=(1, 2))
        inside += of_insides.sum(axis=(1, 2))
        borders += of_borders[0].size
        insides += of_insides[0].size
    return CellSteps(across / (borders or np.nan), inside / (insides or np.nan))


def cell_steps_inside(image: U8, cell: int, box: tuple[slice, slice]) -> CellSteps:
    """`cell_steps` between the pixels of a box; the grid still starts at the image's upper left corner.

    Args:
        image: `uint8 [H, W]` or `[H, W, 3]`.
        cell: side of a token's cell in pixels.
        box: rows and columns, inside the image.

    Returns:
        One value each, `float64 [1]`; NaN where the box has no border of cells, or nothing else.
    """
    crop = grey_stack(image[None])[:, box[0], box[1]]
    return steps_of(crop, cell, (box[0].start, box[1].start))


def block_ratio(images: U8, cell: int) -> float:
    """Mean step across the borders of token cells over the mean step inside them.

    1.0 if the grid is invisible; larger if neighbouring cells differ in brightness. Both means run over all
    images, so smooth images weigh little. NEU-DET's photographs at 256 pixels score 0.99 for cells of 16.

    Args:
        images: `uint8 [N, H, W]` or `[N, H, W, 3]`.
        cell: side of a token's cell in pixels.

    Raises:
        ValueError: as in `cell_steps`, or every cell is flat.
    """
    steps = cell_steps(images, cell)
    inside = float(steps.inside.mean())
    if inside == 0:
        raise ValueError("every cell of every image is flat: the block ratio has no value")
    return float(steps.across.mean()) / inside


def block_ratio_interval(images: U8, cell: int, groups: Groups | None = None) -> dict[str, float]:
    """`block_ratio` with a 95 % bootstrap interval that resamples whole groups of images.

    Args:
        images: `uint8 [N, H, W]` or `[N, H, W, 3]`.
        cell: side of a token's cell in pixels.
        groups: group or scene of each image (a reconstruction has its original's); None if the images are
            independent, as generated ones are.

    Returns:
        `mean` (the ratio), `low`, `high`.

    Raises:
        ValueError: as in `block_ratio`, or fewer than two groups.
    """
    low, high = ratio_interval(*cell_steps(images, cell), groups)
    return {"mean": block_ratio(images, cell), "low": low, "high": high}
