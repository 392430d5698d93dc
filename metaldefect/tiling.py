"""Cut large images into overlapping tiles and stitch the tiles' maps into one without seams.

Training, scoring and the exported runtime use the same geometry. Only numpy: a runtime needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaldefect.errors import UserError
from metaldefect.images import ImageSize, height_and_width

Floats = NDArray[np.float32]
Window = tuple[slice, slice]
ScoreAndMap = tuple[float, Floats]


class Tiling(NamedTuple):
    """Where the tiles of one image size lie; make it with `plan_tiles`.

    Attributes:
        shape: height and width of the image, px.
        tile: height and width of every tile, px.
        rows: top of each row of tiles, ascending.
        columns: left of each column of tiles, ascending.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top and left of each tile, row by row."""
        return [(top, left) for top in self.rows for left in self.columns]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the image after padding it to at least one tile."""
        return max(self.shape[0], self.tile[0]), max(self.shape[1], self.tile[1])

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)


def plan_tiles(shape: tuple[int, int], tile: tuple[int, int], overlap: int) -> Tiling:
    """Place as few tiles as cover an image with at least this overlap, evenly spaced.

    An image smaller than a tile gets one tile, which extends past its bottom and right border.

    Args:
        shape: height and width of the image, px.
        tile: height and width of the tiles, px.
        overlap: pixels that neighbouring tiles share, at least 0.

    Raises:
        UserError: the overlap is negative or more than half a tile, or a size is below 1.

    Example:
        >>> plan_tiles((256, 600), (256, 256), 64).columns
        (0, 172, 344)
    """
    if min(*shape, *tile) < 1:
        raise UserError(f"tiles of {tile[0]} x {tile[1]} px on an image of {shape[0]} x {shape[1]} px")
    if not 0 <= overlap <= min(tile) // 2:
        raise UserError(
            f"overlap {overlap} px: tiles of {tile[0]} x {tile[1]} px allow 0 to {min(tile) // 2}"
        )
    rows, columns = (starts(*sides, overlap) for sides in zip(shape, tile, strict=True))
    return Tiling(shape, tile, rows, columns)


def starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """First pixel of each tile along one axis: the first tile begins at 0, the last ends at `length`."""
    if length <= tile:
        return (0,)
    count = math.ceil((length - overlap) / (tile - overlap))
    return tuple(int(start) for start in np.linspace(0, length - tile, count).round())


def cut_tiles(image: NDArray[Any], tiling: Tiling) -> NDArray[Any]:
    """The tiles of an image `[H, W]` or `[H, W, C]`, as `[N, h, w]` or `[N, h, w, C]` of the same dtype.

    Where a tile extends past the image, it repeats the border's pixels.

    Raises:
        ValueError: the tiling is for another image size.
    """
    if image.shape[:2] != tiling.shape:
        raise ValueError(f"image is {image.shape[:2]}, its tiling is for {tiling.shape}")
    missing = [(0, padded - side) for padded, side in zip(tiling.padded, tiling.shape, strict=True)]
    padded = np.pad(image, [*missing, *[(0, 0)] * (image.ndim - 2)], mode="edge")
    height, width = tiling.tile
    return np.stack([padded[top : top + height, left : left + width] for top, left in tiling.corners])


def stitch_maps(maps: NDArray[np.floating], tiling: Tiling) -> Floats:
    """Blend the tiles' maps `float [N, h, w]` into one map `float32 [H, W]` of the image.

    Where tiles overlap, each counts the less the closer a pixel is to its edge, down to nothing, so the map
    has no seams. The values of one tile alone stay exactly as they are.

    Raises:
        ValueError: the maps do not fit the tiling.
    """
    if maps.shape != (len(tiling), *tiling.tile):
        raise ValueError(f"maps are {maps.shape}, the tiling needs {(len(tiling), *tiling.tile)}")
    total, weights = np.zeros(tiling.padded, np.float64), np.zeros(tiling.padded, np.float64)
    height, width = tiling.tile
    vertical, horizontal = ramps(tiling.rows, height), ramps(tiling.columns, width)
    for index, one in enumerate(maps):
        row, column = divmod(index, len(tiling.columns))
        window = window_at(tiling.rows[row], tiling.columns[column], tiling.tile)
        weight = vertical[row][:, None] * horizontal[column][None]
        total[window] += weight * one
        weights[window] += weight
    stitched = total / weights
    return stitched[: tiling.shape[0], : tiling.shape[1]].astype(np.float32)


def window_at(top: int, left: int, tile: tuple[int, int]) -> Window:
    """The window of a tile in its padded image."""
    return slice(top, top + tile[0]), slice(left, left + tile[1])


def ramps(begins: tuple[int, ...], side: int) -> list[NDArray[np.float64]]:
    """Weight of each tile's pixels along one axis: rises linearly over the overlap with each neighbour."""
    found = []
    for index, begin in enumerate(begins):
        weight, middle = np.ones(side), np.arange(side) + 0.5
        if index > 0 and (shared := begins[index - 1] + side - begin) > 0:
            weight = np.minimum(weight, middle / shared)
        if index + 1 < len(begins) and (shared := begin + side - begins[index + 1]) > 0:
            weight = np.minimum(weight, (side - middle) / shared)
        found.append(weight)
    return found


def score_tiles(
    score: Callable[[Iterable[NDArray[Any]]], Iterable[ScoreAndMap]],
    image: NDArray[Any],
    size: ImageSize,
    overlap: int,
) -> ScoreAndMap:
    """Score an image in tiles: the largest score of any, and the map `float32 [H, W]` blended from theirs.

    Args:
        score: scores tiles of one size, in order; their maps have that size too.
        image: `[H, W]` or `[H, W, C]`.
        size: of the tiles, px.
        overlap: pixels that neighbouring tiles share.

    Returns:
        Score and map; the score is NaN if that of any tile is.
    """
    tiling = plan_tiles((image.shape[0], image.shape[1]), height_and_width(size), overlap)
    scores, maps = zip(*score(iter(cut_tiles(image, tiling))), strict=True)
    # Python's max keeps or drops a NaN, depending on which tile has it
    return float(np.max(scores)), stitch_maps(np.stack(maps), tiling)
