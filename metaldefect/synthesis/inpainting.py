"""Draw defects into given images: sample the tokens under a mask and keep the rest of the image.

The models know long defects as training images show them: upright or level, for photographs follow the
direction of rolling. Along any other direction they draw groups of short bars. So images with a slanted mask
are turned until it is upright or level, drawn into, and what changed is turned back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from metaldefect.errors import UserError
from metaldefect.images import U8, resize, to_u8
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.exemplars import Region
from metaldefect.synthesis.painter import Painter
from metaldefect.synthesis.slant import slant, turned

Mask = NDArray[np.bool_]
Weights = NDArray[np.float32]

# Width in pixels of the ring around a mask to which the drawn region's grey levels are matched
RING = 6

# Smallest blurred difference, in grey levels, that counts as visible
VISIBLE = 10.0
# The same over the deviation of the metal around: of what is added to it, and of what takes its place.
# Grain that takes the place of other grain differs by 1.4 deviations, and shows nothing.
STANDS_OUT = 1.5
STANDS_OUT_OF_OTHER_GRAIN = 3.0
# Standard deviations of the two blurs, and of the window for the metal around, in pixels
BLURS = (1.5, 5.0)
AROUND = 16.0


# Guidance added at each further try: models that see good metal around like to continue it
STRONGER = 2.0
# Agreement with the brush (intersection over union) from which on a defect is not drawn again
FILLED = 0.4


class Inpainted(NamedTuple):
    """An image with a defect drawn into it, `[H, W]`, and with a painter of colours `[H, W, 3]`."""

    image: U8  # composited
    pasted: U8  # what was drawn under the mask without compositing, for comparison
    changed: Mask  # [H, W], where the image visibly changed

    def fills(self, brush: Mask) -> float:
        """Agreement of the visible change with the brush `bool [H, W]`: intersection over union."""
        return float((self.changed & brush).sum() / (self.changed | brush).sum())


def guided_more(config: SamplingConfig, attempt: int) -> SamplingConfig:
    """How to sample at a further try; the first one is number 0."""
    return config.model_copy(update={"guidance": config.guidance + STRONGER * attempt})


def visible_change(before: U8, after: U8, stands_out: float = STANDS_OUT) -> Mask:
    """Return where two images of one size look different, in any channel: not in their grain but blurred.

    Rough metal hides what smooth metal shows. So a change counts where it exceeds both `VISIBLE` and
    `stands_out` times the deviation of the metal around it, after the same blur: a finer one for narrow
    defects, a coarser one for wide ones.

    Closes gaps of a few pixels and drops specks of fewer than 8 pixels. This is the exact mask of an inserted
    defect; the brush only marks where one could have been drawn.

    Args:
        before: `uint8 [H, W]` or `[H, W, channels]`.
        after: of the same shape.
        stands_out: factor on the deviation of the metal around.

    Returns:
        `bool [H, W]`.
    """
    if before.ndim == 3:
        return np.logical_or.reduce(
            [visible_change(before[..., k], after[..., k], stands_out) for k in range(before.shape[2])]
        )
    metal = before.astype(np.float32)
    difference = after.astype(np.float32) - metal
    fine = np.abs(ndimage.gaussian_filter(difference, BLURS[0])) > VISIBLE
    seen = np.zeros(before.shape, bool)
    for blur in BLURS:
        changed = np.abs(ndimage.gaussian_filter(difference, blur))
        seen |= fine & (changed > stands_out * local_deviation(ndimage.gaussian_filter(metal, blur)))
    closed = ndimage.binary_closing(seen, iterations=2)
    parts, count = ndimage.label(closed)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    return np.asarray(closed & (sizes[parts] >= 8))


def local_deviation(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation around each pixel of `float32 [H, W]`, in a Gaussian window."""
    mean = ndimage.gaussian_filter(levels, AROUND)
    return np.sqrt(ndimage.gaussian_filter((levels - mean) ** 2, AROUND))


def check_mask(mask: Mask, image: U8) -> None:
    """Check that a mask has the image's size and covers some but not all of it."""
    if mask.shape != image.shape[:2]:
        raise UserError(f"the mask has shape {mask.shape}, the image {image.shape[:2]}")
    if not mask.any():
        raise UserError("the mask is empty: mark where to draw the defect")
    if mask.all():
        raise UserError("the mask covers the whole image: leave some of it, or sample a whole image")


def cells_under(mask: Mask, grid: int) -> NDArray[np.bool_]:
    """Token cells that a pixel mask touches, `bool [grid, grid]`: rounded outward."""
    side = mask.shape[0] // grid
    return np.asarray(mask.reshape(grid, side, grid, side).any(axis=(1, 3)))


def smooth_step(progress: NDArray[np.floating]) -> Weights:
    """Cubic step from 0 at 0 to 1 at 1, with flat ends."""
    share = np.clip(progress, 0.0, 1.0)
    return (share * share * (3.0 - 2.0 * share)).astype(np.float32)


def feathered(mask: Mask, width: float) -> Weights:
    """1 on the mask, falling to 0 at `width` pixels outside it: the defect itself is not attenuated."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    return smooth_step(1.0 - ndimage.distance_transform_edt(~mask) / width)


def composite(image: U8, drawn: U8, unchanged: U8, mask: Mask, width: float) -> U8:
    """Blend `drawn` into `image` under the feathered mask; no byte changes farther than `width` from it.

    All of what was drawn on the mask is used: a blend that began inside would thin out narrow defects.
    Blends in the image plus the difference of `drawn` and `unchanged`. So what `unchanged` lacks of the
    image, such as the grain that a tokenizer cannot keep, stays under the defect. The difference is shifted
    to 0 on a ring around the mask; the shift continues smoothly inward.

    Args:
        image: the original, `uint8 [H, W]` or `[H, W, 3]`.
        drawn: the image with the defect, same shape.
        unchanged: the same without it: the original in the sharpness of `drawn`.
        mask: `bool [H, W]`.
        width: feather in pixels outside the mask.
    """
    alpha = feathered(mask, width)
    original = image.astype(np.float32)
    ring = (ndimage.distance_transform_edt(~mask) <= max(RING, width)) & ~mask
    change = drawn.astype(np.float32) - unchanged
    if change.ndim == 2:
        level = level_on(ring, change)
    else:
        grey = change.mean(axis=2)
        # The hue of most of the ring: a red defect that crosses it must not make the metal beside it green
        hue = np.median((change - grey[..., None])[ring], axis=0) if ring.any() else np.float32(0.0)
        alpha, level = alpha[..., None], level_on(ring, grey)[..., None] + hue
    return np.where(alpha > 0, to_u8(original + alpha * (change - level)), image)


def level_on(ring: Mask, change: Weights) -> Weights:
    """The mean of a change `float32 [H, W]` on a ring, continued smoothly over the image."""
    weight = ndimage.gaussian_filter(ring.astype(np.float32), 12.0) + 1e-6
    around = np.where(ring, change, 0.0).astype(np.float32)
    level = ndimage.gaussian_filter(around, 12.0) / weight
    # Far inside a large mask the blurred ring vanishes; use the ring's mean there
    mean = float(change[ring].mean()) if ring.any() else 0.0
    trust = np.clip(weight / 0.02, 0.0, 1.0)
    return trust * level + (1.0 - trust) * mean


def only_around(changed: Mask, before: U8, after: U8, width: float) -> U8:
    """`after` where it visibly differs, fading to `before` within `width` pixels.

    What is drawn under a brush is more than the defect: metal around it, whose grain is not this image's.
    """
    weight = feathered(changed, width).reshape(*changed.shape, *[1] * (before.ndim - 2))
    return to_u8(np.asarray(before + weight * (after.astype(np.float32) - before), np.float32))


class Prepared(NamedTuple):
    """Images ready to be drawn into, with what does not change from one try to the next.

    `images` and `masks` are the given ones, `angles` the degrees that they are turned by before drawing, and
    `turned_images` and `turned_masks` what comes of it. All else is of the turned ones: `hidden` holds their
    tokens, `int64 [N, grid, grid]`, with the mask id in the cells to draw; `field` their light; `unchanged`
    what to compare the drawn images with: the images through the tokenizer, or as they are where drawn images
    get the detail of exemplars. `regions` holds the rows and columns, in pixels of the painter, outside which
    nothing of what is drawn is used.
    """

    images: Sequence[U8]
    masks: Sequence[Mask]
    angles: Sequence[float]
    turned_images: Sequence[U8]
    turned_masks: Sequence[Mask]
    hidden: torch.Tensor
    field: torch.Tensor
    unchanged: U8
    regions: Sequence[Region]


def prepare(painter: Painter, images: Sequence[U8], masks: Sequence[Mask], feather_pixels: float) -> Prepared:
    """Encode images and hide the tokens under their masks; arguments and errors as for `inpaint`."""
    for image, mask in zip(images, masks, strict=True):
        check_mask(mask, image)
    angles = [slant(mask) for mask in masks]
    seen = [turned(image, angle) for image, angle in zip(images, angles, strict=True)]
    along = [turned(mask, angle) for mask, angle in zip(masks, angles, strict=True)]
    size, grid = painter.image_size, painter.maskgit.config.grid
    small = np.stack([resize(image, size) for image in seen])
    # Redraw every cell with a pixel within a feather's width of the mask, so that the whole blend zone lies
    # inside what was drawn
    wide = [ndimage.binary_dilation(mask, iterations=max(1, round(feather_pixels))) for mask in along]
    cells = np.stack([cells_under(resize_mask(mask, size), grid) for mask in wide])
    tokens = painter.encode(small)
    hidden = tokens.masked_fill(torch.from_numpy(cells), painter.maskgit.config.mask_id)
    field = painter.field_of(small)
    unchanged = small if painter.exemplars is not None else painter.decode(tokens, field)
    reach = max(RING, round(feather_pixels)) + 1
    used = [resize_mask(ndimage.binary_dilation(mask, iterations=reach), size) for mask in along]
    regions = [ndimage.find_objects(mask.astype(np.uint8))[0] for mask in used]
    return Prepared(images, masks, angles, seen, along, hidden, field, unchanged, regions)


def draw_into(
    painter: Painter,
    prepared: Prepared,
    labels: Sequence[str],
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    feather_pixels: float,
    history: list[torch.Tensor] | None = None,
) -> list[Inpainted]:
    """Draw into prepared images; arguments, result and errors as for `inpaint`."""
    numbers = torch.tensor([painter.label(name) for name in labels])
    tokens = painter.draw_tokens(numbers, config, generators, prepared.hidden, history)
    detailed = painter.exemplars is not None
    if painter.exemplars is None:
        drawn = painter.decode(tokens, prepared.field)
    else:
        drawn = painter.detailed(
            painter.exemplars, tokens, numbers, prepared.field, generators, prepared.regions
        )
    found = []
    for number, (image, mask) in enumerate(zip(prepared.turned_images, prepared.turned_masks, strict=True)):
        shape = (image.shape[0], image.shape[1])
        inserted, without = (resize(one[number], shape) for one in (drawn, prepared.unchanged))
        result = composite(image, inserted, without, mask, feather_pixels)
        changed = visible_change(image, result, STANDS_OUT_OF_OTHER_GRAIN if detailed else STANDS_OUT)
        if detailed:  # brings its own grain, which is to stay out of the metal around the defect
            result = only_around(changed, image, result, feather_pixels / 2)
        under = mask if image.ndim == 2 else mask[..., None]
        one = Inpainted(result, np.where(under, inserted, image), changed)
        found.append(turned_back(one, prepared, number, feather_pixels))
    return found


def turned_back(found: Inpainted, prepared: Prepared, number: int, feather_pixels: float) -> Inpainted:
    """What was drawn into a turned image, in the image as it was.

    Only the change is turned back, and only as far as the feather, which interpolation would exceed by a
    pixel: all other metal keeps its exact values.
    """
    angle = prepared.angles[number]
    if angle == 0.0:
        return found
    before, seen = prepared.images[number], prepared.turned_images[number]
    near = feathered(prepared.masks[number], feather_pixels) > 0
    near = near.reshape(*near.shape, *[1] * (before.ndim - 2))

    def back(image: U8) -> U8:
        return to_u8(before + near * turned(image.astype(np.float32) - seen, -angle))

    changed = turned(found.changed.astype(np.float32), -angle) > 0.5
    return Inpainted(back(found.image), back(found.pasted), changed)


def inpaint(
    painter: Painter,
    images: Sequence[U8],
    masks: Sequence[Mask],
    labels: Sequence[str],
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    feather_pixels: float,
    history: list[torch.Tensor] | None = None,
) -> list[Inpainted]:
    """Draw a defect of a class under the mask of each image.

    Args:
        painter: tokenizer and MaskGIT.
        images: `uint8 [H, W]` each, or `[H, W, 3]` for a painter of colours, any size; drawn at the
            painter's size, in one batch.
        masks: `bool [H, W]`, one per image.
        labels: class name of each image's defect.
        config: how to sample.
        generators: source of each image's randomness; see `image_generator`.
        feather_pixels: width of the blend outside the mask, in pixels of the input images.
        history: receives the token grids `int64 [N, grid, grid]` after each step, of the turned images.

    Returns:
        For each image the result, of its shape, unchanged farther than the feather from the mask, with
        exemplars also farther than half of it from the visible change; what was drawn, without compositing;
        and where the visible change is.

    Raises:
        UserError: unknown class, a mask of the wrong size, an empty mask, or a mask of the whole image.
    """
    for name in labels:
        painter.label(name)
    prepared = prepare(painter, images, masks, feather_pixels)
    return draw_into(painter, prepared, labels, config, generators, feather_pixels, history)


def resize_mask(mask: Mask, size: int) -> Mask:
    """Resize a mask to a square of side `size`; any touched pixel counts, so thin parts survive."""
    if mask.shape == (size, size):
        return mask
    grown = ndimage.maximum_filter(mask, size=max(1, mask.shape[0] // size))
    return resize(grown.astype(np.uint8) * 255, size) > 0
