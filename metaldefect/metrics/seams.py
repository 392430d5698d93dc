"""How visible the border of an inserted region is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from metaldefect.images import U8, as_channels


def border_gradient(image: U8, mask: NDArray[np.bool_], width: int = 1) -> float:
    """Mean gradient magnitude (grey levels per pixel) within `width` pixels of the mask's border.

    Args:
        image: `uint8 [H, W]`, or `[H, W, 3]`, of which the luminance counts.
        mask: `bool [H, W]`, with some but not all pixels set.
        width: distance from the border, in pixels on each side, up to which pixels count.

    Raises:
        ValueError: the mask has no border.
    """
    outer = ndimage.binary_dilation(mask, iterations=width) & ~mask
    inner = mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=1)
    border = outer | inner
    if not border.any():
        raise ValueError("the mask has no border")
    rows, columns = np.gradient(as_channels(image, 1).astype(np.float64))
    return float(np.hypot(rows, columns)[border].mean())
