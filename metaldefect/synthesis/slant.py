"""Draw along a slanted brush: turn the metal until the brush is upright or level, draw, and turn back.

The models know long defects as training images show them: upright or level, for photographs follow the
direction of rolling. Along any other direction they draw groups of short bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from metaldefect.images import U8, to_u8
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.inpainting import Inpainted, Mask, feathered, inpaint
from metaldefect.synthesis.painter import Painter

LONG = 3.0  # length over width from which on a brush has a direction
SLANT = 12.0  # degrees from upright or level up to which a brush stays as it lies
SAME_AREA = 0.05  # by how much a turn may change the area of a brush, as a share of it


def inpaint_along(
    painter: Painter,
    images: Sequence[U8],
    masks: Sequence[Mask],
    labels: Sequence[str],
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    feather_pixels: float,
    history: list[torch.Tensor] | None = None,
) -> list[Inpainted]:
    """`inpaint`, along slanted masks too: the tokens in `history` are then those of the turned image."""
    angles = [slant(mask) for mask in masks]
    seen = [turned(image, angle) for image, angle in zip(images, angles, strict=True)]
    along = [turned(mask, angle) for mask, angle in zip(masks, angles, strict=True)]
    found = inpaint(painter, seen, along, labels, config, generators, feather_pixels, history)
    return [
        turned_back(one, shown, image, feathered(mask, feather_pixels) > 0, angle)
        for one, shown, image, mask, angle in zip(found, seen, images, masks, angles, strict=True)
    ]


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
    area = turned(brush.astype(np.float32), leaning).sum()
    return leaning if abs(area / brush.sum() - 1) < SAME_AREA else 0.0


def turned(values: NDArray[Any], degrees: float) -> NDArray[Any]:
    """Values `[H, W]` or `[H, W, channels]`, turned about their centre: counter-clockwise for `degrees` > 0.

    Keeps size and dtype; corners are mirrored, so metal stays metal. 0 degrees give the values themselves.
    """
    if degrees == 0.0:
        return values
    found = ndimage.rotate(values.astype(np.float32), degrees, reshape=False, order=1, mode="mirror")
    if values.dtype == bool:
        return np.asarray(found > 0.25)  # a line of one pixel stays whole
    return to_u8(found) if values.dtype == np.uint8 else found


def turned_back(found: Inpainted, seen: U8, before: U8, near: Mask, degrees: float) -> Inpainted:
    """What was drawn into a turned image, in the image as it was.

    Only the change is turned back, so metal that did not change keeps its exact values.

    Args:
        found: drawn into `seen`.
        seen: `turned(before, degrees)`.
        before: the image, `uint8 [H, W]` or `[H, W, 3]`.
        near: `bool [H, W]`, where it may change; interpolation reaches a pixel farther.
        degrees: 0 gives `found` itself.
    """
    if degrees == 0.0:
        return found

    def back(image: U8) -> U8:
        change = turned(image.astype(np.float32) - seen, -degrees)
        return to_u8(before + change * near.reshape(*near.shape, *[1] * (before.ndim - 2)))

    return Inpainted(back(found.image), back(found.pasted), turned(found.changed, -degrees))
