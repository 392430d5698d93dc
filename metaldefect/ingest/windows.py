"""Windows around the small defects of photographs, so that they are learnt at their own scale.

A photograph of 4000 x 3000 pixels in 256 would show a scratch of 40 pixels as two or three, and one of
250 x 300 pixels a pore of 10 as part of one token. So a photograph whose defects would become that small
gives one square window per defect instead of one image of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from metaldefect.image_files import U8
from metaldefect.ingest.adapters.records import Box

WINDOWS = "windows.json"  # beside the sample table: class -> side, px; absent where no class has one
SMALLEST_EXTENT = 0.2  # of the image's side: three of sixteen tokens; smaller defects are hardly learnt
MOST_ENLARGED = 2.0  # times that a window is enlarged at most: beyond, the image shows nothing more
LEAST_GAIN = 1.5  # the whole photograph over its window; a window nearly as large is not worth a second scale
ROOM = 3.0  # side of a window over the extent of its defect: the models need metal around it
JOINED = 0.02  # of the photograph's longer side: parts of a mask that are nearer than this are one defect
MOST_WINDOWS = 8  # of one photograph, the largest defects first


class Window(NamedTuple):
    """A square of a photograph, px."""

    top: int
    left: int
    side: int

    def cut(self, image: U8) -> U8:
        """The pixels inside, of `[H, W]` or `[H, W, 3]`."""
        return np.ascontiguousarray(image[self.top : self.top + self.side, self.left : self.left + self.side])

    def holds(self, part: tuple[slice, slice]) -> bool:
        """Whether a region lies inside."""
        rows, columns = part
        return (
            self.top <= rows.start
            and rows.stop <= self.top + self.side
            and self.left <= columns.start
            and columns.stop <= self.left + self.side
        )

    def boxes_inside(self, boxes: Sequence[Box]) -> tuple[Box, ...]:
        """The boxes of the photograph as they lie in the window, cut off at its border."""
        last = self.side - 1
        shifted = [
            replace(
                box,
                xmin=max(box.xmin - self.left, 0),
                ymin=max(box.ymin - self.top, 0),
                xmax=min(box.xmax - self.left, last),
                ymax=min(box.ymax - self.top, last),
            )
            for box in boxes
        ]
        return tuple(box for box in shifted if box.xmin < box.xmax and box.ymin < box.ymax)


def windows_around(
    mask: U8 | None, boxes: Sequence[Box], shape: tuple[int, int], image_size: int
) -> tuple[Window, ...]:
    """Where to cut a photograph whose defects are small; empty if it is used as a whole.

    Args:
        mask: of the defects, `uint8 [H, W]`; None if it is unknown, then the boxes count.
        boxes: of the defects, in pixels.
        shape: height and width of the photograph.
        image_size: side in pixels that images are resized to.

    Returns:
        Windows at least half as large as an image, the largest defect's first.
    """
    smallest = round(image_size / MOST_ENLARGED)
    if max(shape) < LEAST_GAIN * smallest or min(shape) < smallest:
        return ()
    parts = parts_of(mask, max(shape)) if mask is not None else [part_of(box, shape) for box in boxes]
    parts = sorted(parts, key=extent_of, reverse=True)
    if not parts or extent_of(parts[0]) >= SMALLEST_EXTENT * max(shape):
        return ()
    found: list[Window] = []
    for part in parts:
        if len(found) < MOST_WINDOWS and not any(window.holds(part) for window in found):
            found.append(window_around(part, shape, smallest))
    return tuple(found)


def is_large(shape: tuple[int, ...], image_size: int) -> bool:
    """Whether a photograph loses half of its detail as a whole, so that small defects always need windows."""
    return max(shape) >= 2 * image_size and min(shape) > image_size


def parts_of(mask: U8, longer_side: int) -> list[tuple[slice, slice]]:
    """Bounding boxes of a mask's defects."""
    step = max(1, round(JOINED * longer_side / 2))
    # Blocks of a step's side: dilating a photograph of twelve megapixels would take seconds
    rows, columns = (-(-side // step) for side in mask.shape)
    padded = np.zeros((rows * step, columns * step), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask > 0
    blocks = padded.reshape(rows, step, columns, step).any(axis=(1, 3))
    labels, _ = ndimage.label(blocks, np.ones((3, 3), bool))
    return [tight(padded, found, step) for found in ndimage.find_objects(labels)]


def tight(mask: NDArray[np.bool_], blocks: tuple[slice, slice], step: int) -> tuple[slice, slice]:
    """The bounding box of the set pixels in a rectangle of blocks."""
    top, left = blocks[0].start * step, blocks[1].start * step
    inside = mask[top : blocks[0].stop * step, left : blocks[1].stop * step]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return (
        slice(top + int(rows[0]), top + int(rows[-1]) + 1),
        slice(left + int(columns[0]), left + int(columns[-1]) + 1),
    )


def part_of(box: Box, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The pixels under a box."""
    return (
        slice(max(box.ymin, 0), min(box.ymax + 1, shape[0])),
        slice(max(box.xmin, 0), min(box.xmax + 1, shape[1])),
    )


def extent_of(part: tuple[slice, slice]) -> int:
    """The longer side of a region, px."""
    return max(side.stop - side.start for side in part)


def window_around(part: tuple[slice, slice], shape: tuple[int, int], smallest: int) -> Window:
    """A square with room around a region, moved and shrunk to lie inside the photograph."""
    side = min(max(smallest, round(ROOM * extent_of(part))), *shape)
    top, left = (
        min(max((span.start + span.stop - side) // 2, 0), length - side)
        for span, length in zip(part, shape, strict=True)
    )
    return Window(top, left, side)
