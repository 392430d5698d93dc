"""Defects drawn into given images: tokens under a mask are sampled, the rest of the image stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from metaldefect.errors import UserError
from metaldefect.images import U8, resize, to_u8
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.synthesis.painter import Painter

Mask = NDArray[np.bool_]

# Pixels around a mask whose grey levels the drawn region is matched to
RING = 6

# Grey levels by which a blurred difference must differ from 0 to be called visible
VISIBLE = 10.0


class Inpainted(NamedTuple):
    """A defect drawn into an image, each `[H, W]`."""

    image: U8  # composited
    pasted: U8  # the decoded tokens under the mask as they are: what compositing is measured against
    changed: Mask  # where the image now looks different


def visible_change(before: U8, after: U8, threshold: float = VISIBLE) -> Mask:
    """Where two images of one size look different: not in their grain, but in a blur of 1.5 pixels.

    Gaps of a few pixels are closed, specks of fewer than 8 pixels left out. This is the exact mask of an
    inserted defect: a brush is only where one might have been drawn.
    """
    difference = ndimage.gaussian_filter(after.astype(np.float32) - before.astype(np.float32), 1.5)
    changed = ndimage.binary_closing(np.abs(difference) > threshold, iterations=2)
    parts, count = ndimage.label(changed)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    return np.asarray(changed & (sizes[parts] >= 8))


def check_mask(mask: Mask, image: U8) -> None:
    """A mask must have the image's size and cover some but not all of it."""
    if mask.shape != image.shape:
        raise UserError(f"the mask has shape {mask.shape}, the image {image.shape}")
    if not mask.any():
        raise UserError("the mask is empty: mark where the defect shall be")
    if mask.all():
        raise UserError("the mask covers the whole image: leave some of it, or sample a whole image")


def cells_under(mask: Mask, grid: int) -> NDArray[np.bool_]:
    """Token cells that a pixel mask touches, `bool [grid, grid]`: rounded outward."""
    side = mask.shape[0] // grid
    return np.asarray(mask.reshape(grid, side, grid, side).any(axis=(1, 3)))


def feather(mask: Mask, width: float) -> NDArray[np.float32]:
    """Blend weight: 0 from `width` pixels outside the mask on, 1 from as many inside.

    A mask that is nowhere so deep has its 1 where it is deepest. Half of the blend lies inside because a
    defect drawn up to the mask's border and cut off there shows the border.
    """
    outside, inside = ndimage.distance_transform_edt(~mask), ndimage.distance_transform_edt(mask)
    ramp = np.clip((width - outside + inside) / (width + min(width, inside.max())), 0.0, 1.0)
    return (ramp * ramp * (3.0 - 2.0 * ramp)).astype(np.float32)


def composite(image: U8, drawn: U8, reconstruction: U8, mask: Mask, width: float) -> U8:
    """Blend `drawn` into `image` under the feathered mask; farther than `width` no byte changes.

    What is blended in is the image plus the difference of the two decoded images: where the tokens did not
    change, nothing does, and the image's own grain, which the tokenizer cannot keep, stays under the
    defect. The difference is moved to 0 on a ring around the mask, spread inward smoothly.

    Args:
        image: the original, `uint8 [H, W]`.
        drawn: the decoded tokens, same shape.
        reconstruction: the original through the tokenizer, same shape.
        mask: `bool [H, W]`.
        width: feather in pixels, on either side of the mask's border.
    """
    alpha = feather(mask, width)
    original = image.astype(np.float32)
    ring = (ndimage.distance_transform_edt(~mask) <= max(RING, width)) & ~mask
    weight = ndimage.gaussian_filter(ring.astype(np.float32), 12.0) + 1e-6
    change = drawn.astype(np.float32) - reconstruction
    around = np.where(ring, change, 0.0).astype(np.float32)
    level = ndimage.gaussian_filter(around, 12.0) / weight
    # Far inside a large mask the blurred ring vanishes; there the ring's mean is all that is known
    mean = float(change[ring].mean()) if ring.any() else 0.0
    trust = np.clip(weight / 0.02, 0.0, 1.0)
    level = trust * level + (1.0 - trust) * mean
    return np.where(alpha > 0, to_u8(original + alpha * (change - level)), image)


def inpaint(
    painter: Painter,
    images: Sequence[U8],
    masks: Sequence[Mask],
    labels: Sequence[str],
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    feather_pixels: float,
) -> list[Inpainted]:
    """Draw a defect of a class under the mask of each image.

    Args:
        painter: tokenizer and MaskGIT.
        images: grey `uint8 [H, W]` each, of any size; drawn at the painter's size, in one batch.
        masks: `bool [H, W]` of each image.
        labels: class name of each.
        config: how to sample.
        generators: source of each image's randomness; see `image_generator`.
        feather_pixels: width of the blend on either side of the mask's border, in pixels of the given images.

    Returns:
        Of each image the result, `uint8 [H, W]`, whose pixels farther than the feather from the mask keep
        their bytes; the same without compositing; and where a change is visible.

    Raises:
        UserError: unknown class, a mask of another size, an empty mask, a mask of everything.
    """
    numbers = torch.tensor([painter.label(name) for name in labels])
    for image, mask in zip(images, masks, strict=True):
        check_mask(mask, image)
    size, grid = painter.image_size, painter.maskgit.config.grid
    small = np.stack([resize(image, size) for image in images])
    # A cell is redrawn if any pixel of it is under the mask; a feather's width more keeps the blend
    # zone inside what was drawn
    wide = [ndimage.binary_dilation(mask, iterations=max(1, round(feather_pixels))) for mask in masks]
    cells = np.stack([cells_under(resize_mask(mask, size), grid) for mask in wide])
    tokens = painter.encode(small)
    hidden = tokens.masked_fill(torch.from_numpy(cells), painter.maskgit.config.mask_id)
    drawn_tokens = painter.draw_tokens(numbers, config, generators, known=hidden)
    drawn, reconstruction = painter.decode(drawn_tokens), painter.decode(tokens)
    found = []
    for image, mask, d, r in zip(images, masks, drawn, reconstruction, strict=True):
        inserted = resize(d, image.shape)
        result = composite(image, inserted, resize(r, image.shape), mask, feather_pixels)
        found.append(Inpainted(result, np.where(mask, inserted, image), visible_change(image, result)))
    return found


def resize_mask(mask: Mask, size: int) -> Mask:
    """Resize a mask to a square of side `size`, keeping thin parts: any touched pixel counts."""
    if mask.shape == (size, size):
        return mask
    grown = ndimage.maximum_filter(mask, size=max(1, mask.shape[0] // size))
    return resize(grown.astype(np.uint8) * 255, size) > 0
