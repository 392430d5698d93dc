"""Where a defect goes in a photograph, and how large it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from metaldefect.images import resize
from metaldefect.synthesis.inpainting import Mask
from metaldefect.synthesis.photographs import Window

PLACES = 50  # random places that are tried before a photograph counts as full
SMALLEST_SIZE, LARGEST_SIZE = 0.1, 0.25  # of the shorter side, for defects without a size of their own
SMALLEST_PIXELS = 48  # side of such a defect, if half of the photograph's shorter side has room for it


@dataclass(frozen=True)
class Spot:
    """What the user says about place and shape; None leaves it to chance.

    Attributes:
        taken: `bool [H, W]`, pixels near earlier defects, which the new one must not touch.
        centre: (row, column) of the defect's centre.
        size: longer side of the defect in pixels.
        mask: `bool [H, W]`, the region to fill.
        room: the part of the photograph in which a random place must lie, None for all of it. What must stay
            free inside it is in `taken`.
    """

    taken: Mask = field(repr=False)
    centre: tuple[int, int] | None = None
    size: int | None = None
    mask: Mask | None = field(default=None, repr=False)
    room: Window | None = None

    @property
    def middle(self) -> tuple[int, int] | None:
        """The centre that was asked for, or that of the mask; None if the place is free."""
        if self.centre is None and self.mask is not None:
            return centre_of(bounding_box(self.mask))
        return self.centre

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the photograph."""
        return self.taken.shape[0], self.taken.shape[1]

    @property
    def ranges(self) -> Window:
        """Rows and columns in which a random place must lie."""
        return self.room or (slice(0, self.shape[0]), slice(0, self.shape[1]))

    @property
    def room_shape(self) -> tuple[int, int]:
        """Height and width of the part in which a random place must lie."""
        rows, columns = self.ranges
        return rows.stop - rows.start, columns.stop - columns.start


def bounding_box(mask: Mask) -> Window:
    """The smallest window that holds all set pixels of a mask that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def centre_of(window: Window) -> tuple[int, int]:
    """(row, column) in the middle of a window."""
    rows, columns = window
    return (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2


def extent_of(window: Window) -> int:
    """Longer side of a window in pixels."""
    rows, columns = window
    return max(rows.stop - rows.start, columns.stop - columns.start)


def random_size(rng: np.random.Generator, shape: tuple[int, int]) -> int:
    """Longer side of a defect without a size of its own, in pixels, for room of some height and width."""
    side = min(shape)
    smallest = min(SMALLEST_PIXELS, side // 2)
    return max(smallest, round(rng.uniform(SMALLEST_SIZE, LARGEST_SIZE) * side))


def free_place(rng: np.random.Generator, region: Mask, spot: Spot, margin: int = 2) -> tuple[int, int] | None:
    """Top left corner at which `region` lies inside the photograph and on no earlier defect.

    Args:
        rng: source of the place.
        region: `bool [h, w]`, what the defect covers.
        spot: a centre fixes the place.
        margin: distance in pixels that a random place keeps from the photograph's border.

    Returns:
        (row, column), or None if the photograph has no room.
    """
    height, width = region.shape
    rows, columns = spot.shape[0] - height, spot.shape[1] - width
    if rows < 0 or columns < 0:
        return None
    if (middle := spot.middle) is not None:
        top, left = middle[0] - height // 2, middle[1] - width // 2
        return min(max(top, 0), rows), min(max(left, 0), columns)
    spans = []
    for part, length, extent in zip(spot.ranges, spot.shape, region.shape, strict=True):
        edge = min(margin, (length - extent) // 2)
        low, high = max(part.start, edge), min(part.stop, length - edge) - extent
        if low > high:
            return None
        spans.append((low, high + 1))
    for _ in range(PLACES):
        top, left = (int(rng.integers(*span)) for span in spans)
        if not (spot.taken[top : top + height, left : left + width] & region).any():
            return top, left
    return None


def square_around(centre: tuple[int, int], side: int, shape: tuple[int, int]) -> Window:
    """A square window of `side` pixels around a centre, moved and shrunk to lie inside the photograph."""
    side = min(side, *shape)
    starts = [min(max(c - side // 2, 0), length - side) for c, length in zip(centre, shape, strict=True)]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def scaled_to(mask: Mask, size: int) -> Mask:
    """The part of a mask inside its bounding box, resized to a longer side of `size` pixels."""
    box = bounding_box(mask)
    crop = mask[box].astype(np.uint8) * 255
    factor = size / extent_of(box)
    height, width = (max(3, round(side * factor)) for side in crop.shape)
    scaled = resize(crop, (height, width)) > 127
    return scaled if scaled.any() else np.ones((height, width), bool)


def near(mask: Mask, pixels: int) -> Mask:
    """The mask and everything within `pixels` of it in rows and columns."""
    if not mask.any():
        return mask
    parts = [slice(max(part.start - pixels, 0), part.stop + pixels) for part in bounding_box(mask)]
    window = parts[0], parts[1]
    grown = np.zeros_like(mask)
    grown[window] = ndimage.maximum_filter(mask[window], 2 * pixels + 1, mode="constant")
    return grown
