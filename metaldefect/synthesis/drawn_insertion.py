"""Draw a defect with MaskGIT into a photograph of any size, in a window as large as the defect needs.

A window of the whole photograph would be squeezed to the models' size, and a small defect in it to a few
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaldefect.images import U8, Channels, to_u8
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.change import Change
from metaldefect.synthesis.inpainting import FILLED, Inpainted, Mask, draw_into, guided_more, prepare
from metaldefect.synthesis.mask_makers import make_mask
from metaldefect.synthesis.painter import Painter
from metaldefect.synthesis.photographs import Levels, Photograph, grey_of
from metaldefect.synthesis.placement import (
    Spot,
    bounding_box,
    centre_of,
    extent_of,
    free_place,
    random_size,
    scaled_to,
    square_around,
)

ROOM = 2.2  # side of the window over the extent of the mask: the models need metal around it
SMALLEST_WINDOW = 128  # pixels; in a smaller one the models see metal larger than they learnt it
CANDIDATES = 4  # defects drawn at once, of which the one that fills the brush best is taken
TRIES = 2  # times that candidates are drawn until one fills the brush, each time with more guidance


def draw_defect(
    canvas: Photograph,
    painter: Painter,
    label: str,
    spot: Spot,
    rng: np.random.Generator,
    sampling: SamplingConfig,
    masks: Sequence[Mask],
    feather: float,
) -> Change | None:
    """Draw a defect of a class into a photograph: the one of several candidates that fills the brush best.

    Args:
        canvas: the photograph to change.
        painter: the models.
        label: one of the painter's classes.
        spot: place and size, or the mask to fill.
        rng: source of everything random.
        sampling: how to sample.
        masks: shapes of real defects, `bool`, any size; without any, strokes and blobs.
        feather: width in pixels of the blend outside the mask.

    Returns:
        The change, or None if the photograph has no room.

    Raises:
        UserError: unknown class.
    """
    painter.label(label)
    brush = brush_mask(canvas, spot, rng, masks)
    if brush is None:
        return None
    box = bounding_box(brush)
    side = max(SMALLEST_WINDOW, round(ROOM * extent_of(box)), extent_of(box) + 4 * round(feather))
    window = square_around(centre_of(box), side, canvas.shape)
    before = pixels_of(canvas.levels(window), painter.channels)
    inside, seed = brush[window], int(rng.integers(2**31))
    found: list[Inpainted] = []
    prepared = prepare(painter, [before] * CANDIDATES, [inside] * CANDIDATES, feather)
    for attempt in range(TRIES):
        config = guided_more(sampling, attempt)
        generators = [image_generator(seed, attempt, number) for number in range(CANDIDATES)]
        found += draw_into(painter, prepared, [label] * CANDIDATES, config, generators, feather)
        filled = [one.fills(inside) for one in found]
        if max(filled) >= FILLED:
            break
    number = filled.index(max(filled))
    best, guidance = found[number], guided_more(sampling, number // CANDIDATES).guidance
    added = best.image.astype(np.float32) - before
    details = {"window": float(len(inside)), "guidance": guidance, "slant": prepared.angles[0]}
    return Change(window, added if added.ndim == 3 else added[..., None], inside, "", details)


def pixels_of(levels: Levels, channels: Channels) -> U8:
    """Levels `[h, w, 1 or 3]` as the painter takes them, `uint8 [h, w]` or `[h, w, 3]`."""
    if channels == 1:
        return to_u8(grey_of(levels))
    return to_u8(np.broadcast_to(levels, (*levels.shape[:2], 3)))


def brush_mask(
    canvas: Photograph, spot: Spot, rng: np.random.Generator, masks: Sequence[Mask]
) -> Mask | None:
    """The mask to fill, `bool [H, W]`: the user's, or a shape at a free place; None without room."""
    if spot.mask is not None:
        return spot.mask
    shape = scaled_to(make_mask(rng, 256, masks), spot.size or random_size(rng, spot.room_shape))
    place = free_place(rng, shape, spot)
    if place is None:
        return None
    brush = np.zeros(canvas.shape, bool)
    brush[place[0] : place[0] + shape.shape[0], place[1] : place[1] + shape.shape[1]] = shape
    return brush
