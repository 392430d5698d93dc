"""Which way a long brush leans, and images turned so that it stands upright or lies level."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from metaldefect.images import to_u8
from metaldefect.synthesis.mask_makers import Mask

LONG = 3.0  # length over width from which on a brush has a direction
SLANT = 12.0  # degrees from upright or level up to which a brush stays as it lies
SAME_AREA = 0.05  # by how much a turn may change the area of a brush, as a share of it


def slant(brush: Mask) -> float:
    """Degrees by which a long brush `bool [H, W]` leans, in [-45, 45].

    0 if it is not long, or about upright or level, or so close to the border that a turn would move parts of
    it out of the square or mirror them.
    """
    rows, columns = np.nonzero(brush)
    if len(rows) < 2:
        return 0.0
    spread = np.linalg.eigh(np.cov(np.stack([columns, rows])) + np.eye(2) / 12)
    if spread.eigenvalues[1] < LONG**2 * spread.eigenvalues[0]:
        return 0.0
    across, down = spread.eigenvectors[:, 1]
    leaning = (float(np.degrees(np.arctan2(down, across))) + 45) % 90 - 45
    if abs(leaning) <= SLANT:
        return 0.0
    whole = brush.astype(np.float32)
    left, with_mirrored = (rotated(whole, leaning, mode).sum() for mode in ("constant", "mirror"))
    kept = all(abs(area / whole.sum() - 1) < SAME_AREA for area in (left, with_mirrored))
    return leaning if kept else 0.0


def rotated(
    values: NDArray[np.float32], degrees: float, outside: Literal["constant", "mirror"]
) -> NDArray[np.float32]:
    """Turn about the centre, counter-clockwise for `degrees` > 0; `outside` says what comes in at corners."""
    return ndimage.rotate(values, degrees, reshape=False, order=1, mode=outside)


def turned(values: NDArray[Any], degrees: float) -> NDArray[Any]:
    """Values `[H, W]` or `[H, W, channels]` turned by `rotated`; 0 degrees give the values themselves.

    Keeps size and dtype; corners are mirrored, so metal stays metal.
    """
    if degrees == 0.0:
        return values
    found = rotated(values.astype(np.float32), degrees, "mirror")
    if values.dtype == bool:
        return np.asarray(found > 0.25)  # a line of one pixel stays whole
    return to_u8(found) if values.dtype == np.uint8 else found
