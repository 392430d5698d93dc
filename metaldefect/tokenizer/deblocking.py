"""Makes the grid of token cells disappear from decoded images, without weights.

A decoder estimates each cell's pixels mostly from the cell's own code, so neighbouring cells do not meet at
their common border. The step across a border should be like the steps beside it. What it has in excess is
spread over the pixels on both sides, fading out with the distance from the border. (Video codecs deblock in
the same way: List et al. 2003, "Adaptive deblocking filter".)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 5  # pixels along the border over which the excess is averaged: single pixels' texture stays


def deblock(images: Tensor, cell: int, reach: int) -> Tensor:
    """Remove the excess steps across the borders of cells of `float [N, C, H, W]`.

    Args:
        images: height and width are multiples of `cell`.
        cell: side of a cell in pixels, at least 2 * `reach`.
        reach: distance from a border at which the correction ends, in pixels; 0 changes nothing.

    Raises:
        ValueError: the reach is negative, or beyond the middle of a cell.
    """
    if not 0 <= reach <= cell // 2:
        raise ValueError(f"reach = {reach}: expected 0 to {cell // 2} for cells of {cell} pixels")
    if reach == 0 or images.shape[-1] == cell == images.shape[-2]:
        return images
    images = across_columns(images, cell, reach)
    return across_columns(images.transpose(2, 3), cell, reach).transpose(2, 3)


def across_columns(images: Tensor, cell: int, reach: int) -> Tensor:
    """`deblock` for the borders between columns of cells."""
    n, c, height, width = images.shape
    if width == cell:
        return images
    left, right = images[..., cell - 1 : -1 : cell], images[..., cell::cell]
    beside = (left - images[..., cell - 2 : -2 : cell] + images[..., cell + 1 :: cell] - right) / 2
    excess = right - left - beside  # [N, C, H, borders]
    excess = F.avg_pool2d(
        F.pad(excess, (0, 0, SMOOTH // 2, SMOOTH // 2), mode="replicate"), (SMOOTH, 1), stride=1
    )
    distance = torch.arange(reach, device=images.device, dtype=images.dtype)
    fading = 0.5 * (1 - (distance + 0.5) / reach)
    ramp = images.new_zeros(cell)
    ramp[:reach] = -fading  # right of a border
    before = images.new_zeros(cell)
    before[cell - reach :] = fading.flip(0)  # left of the next border
    none = images.new_zeros(n, c, height, 1)
    correction = torch.cat([none, excess], -1)[..., None] * ramp
    correction = correction + torch.cat([excess, none], -1)[..., None] * before
    return images + correction.reshape(n, c, height, width)
