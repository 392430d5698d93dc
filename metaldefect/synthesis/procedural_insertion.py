"""Paint procedural defects onto the user's own metal: for classes without a single real example.

The painters of `metaldefect.procedural` draw on a square of any metal. Here this square is a window of the
photograph, only as large as the defect needs. Classes that cover a whole sheet (crazing, pits, scale) are
limited to a blot inside it, as a painter's brush would be.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from metaldefect.errors import UserError
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.images import keyed_generator
from metaldefect.procedural.plates import PLATE_CLASSES
from metaldefect.procedural.textures import SMALLEST_SIZE, Painter
from metaldefect.synthesis.change import Change, contrast_gain
from metaldefect.synthesis.inpainting import Mask, Weights, feathered, smooth_step
from metaldefect.synthesis.mask_makers import blob
from metaldefect.synthesis.photographs import Levels, Photograph, Window, grey_of
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

PAINTERS: dict[str, Painter] = {
    **{name: kind.paint for name, kind in DEFECT_CLASSES.items()},
    **PLATE_CLASSES,
    **ANOMALIES,
}
ROOM = 1.6  # side of the window over the size of the defect
WINDOW_SIDES = (128, 1024)  # pixels; painters lose thin lines below, and only cost time above
WHOLE_SHEET = 0.8  # share of the window's side in both directions from which a defect counts as unbounded
ATTEMPTS = 6  # to paint a defect of about the size that was asked for
SIZES = (0.6, 1.25)  # of that size, which count as about it
PAINTED_LEVEL = 120.0  # grey level of the metal that the painters' contrasts are made for
EDGE_FADE = 0.12  # of the window's side


class Limit(NamedTuple):
    """Where paint may go: `brush`, `bool [H, W]`, binds unbounded defects, and all if `strict`."""

    brush: Mask
    strict: bool


def painter_of(label: str) -> Painter:
    """The painter of a class; raises `UserError` with the known classes."""
    if label not in PAINTERS:
        raise UserError(
            f"no procedural defect is called {label!r}: there are {', '.join(PAINTERS)}; with --method"
            " transplant any class works of which you have one masked photograph"
        )
    return PAINTERS[label]


def paint_defect(
    canvas: Photograph, label: str, spot: Spot, rng: np.random.Generator, feather: float
) -> Change | None:
    """Paint a defect of a class onto a photograph.

    Args:
        canvas: the photograph to change.
        label: a key of `PAINTERS`.
        spot: place and size; a mask limits the paint.
        rng: source of everything random.
        feather: width in pixels of the fade beside a limiting mask.

    Returns:
        The change, or None if the photograph has no room.

    Raises:
        UserError: the class is unknown, or the photograph is smaller than 16 pixels.
    """
    painter = painter_of(label)
    if min(canvas.shape) < SMALLEST_SIZE:
        raise UserError(f"procedural defects need photographs of at least {SMALLEST_SIZE} pixels a side")
    region = brush_of(canvas, spot, rng)
    place = free_place(rng, region, spot)
    if place is None:
        return None
    box = slice(place[0], place[0] + region.shape[0]), slice(place[1], place[1] + region.shape[1])
    brush = np.zeros(canvas.shape, bool)
    brush[box] = region
    limit = Limit(brush, strict=spot.mask is not None)
    centre, size, key = centre_of(box), max(region.shape), int(rng.integers(2**31))
    best: tuple[float, Change] | None = None
    side = round(ROOM * size)
    for attempt in range(ATTEMPTS):
        side = int(np.clip(side, max(SMALLEST_SIZE, min(WINDOW_SIDES[0], *canvas.shape)), WINDOW_SIDES[1]))
        change = paint_window(canvas, painter, centre, side, (key, attempt), limit, feather)
        found = change.details["size"] / size
        if best is None or abs(np.log(found)) < abs(np.log(best[0])):
            best = found, change
        if SIZES[0] <= found <= SIZES[1]:
            break
        side = round(side / np.clip(found, 0.5, 2.0))
    assert best is not None
    return best[1]


def brush_of(canvas: Photograph, spot: Spot, rng: np.random.Generator) -> Mask:
    """The region that the defect may fill, cropped to its bounding box."""
    if spot.mask is not None:
        return spot.mask[bounding_box(spot.mask)]
    return scaled_to(blob(rng, 256), spot.size or random_size(rng, spot.room_shape))


def paint_window(
    canvas: Photograph,
    painter: Painter,
    centre: tuple[int, int],
    side: int,
    key: tuple[int, int],
    limit: Limit,
    feather: float,
) -> Change:
    """Paint inside a square window; a bounded defect is moved to the centre, others fill the brush."""
    window = square_around(centre, side, canvas.shape)
    before, painted, mask = paint_on(canvas, window, painter, key)
    unbounded = covers_sheet(mask)
    if not unbounded:  # once more with the defect's middle at the centre: the same key gives the same shape
        middle = centre_of(bounding_box(mask))
        row, column = (goal + len(mask) // 2 - found for goal, found in zip(centre, middle, strict=True))
        window = square_around((row, column), side, canvas.shape)
        before, painted, mask = paint_on(canvas, window, painter, key)
    added = (painted - before) * edge_fade(len(mask), window, canvas.shape)
    extent = extent_of(bounding_box(mask))
    if not unbounded:
        window, added, mask = move_to(centre, window, added, mask, canvas.shape)
    if unbounded or limit.strict:
        if not mask.all():  # painters may light the whole sheet
            added = added - np.median(added[~mask])
        added = added * feathered(limit.brush[window], feather)
        mask = mask & limit.brush[window]
    if mask.any():
        added = added * contrast_gain(added[mask], float(before.mean()), PAINTED_LEVEL)
        extent = extent_of(bounding_box(mask))
    details = {"window": float(len(before)), "size": float(extent)}
    return Change(window, added[..., None].astype(np.float32), mask, "", details)


def move_to(
    centre: tuple[int, int], window: Window, added: Levels, mask: Mask, shape: tuple[int, int]
) -> tuple[Window, Levels, Mask]:
    """Crop a painted defect to its surroundings, with its middle at the centre.

    A window that the photograph's border holds back leaves the defect elsewhere.
    """
    box = bounding_box(mask)
    margin = 2 + extent_of(box) // 4  # shadows and soft edges lie beside the mask
    parts, places = [], []
    for goal, part, length, total in zip(centre, box, mask.shape, shape, strict=True):
        start, stop = max(part.start - margin, 0), min(part.stop + margin, length)
        place = goal - ((part.start + part.stop) // 2 - start)
        place = min(max(place, 0), total - (stop - start))
        parts.append(slice(start, stop))
        places.append(slice(place, place + stop - start))
    crop = parts[0], parts[1]
    return (places[0], places[1]), added[crop], mask[crop]


def paint_on(
    canvas: Photograph, window: Window, painter: Painter, key: tuple[int, int]
) -> tuple[Levels, Levels, Mask]:
    """A window in grey, the same painted, and the painter's mask, which is never empty."""
    before = grey_of(canvas.levels(window))
    painted, mask = painter(keyed_generator(*key), before)
    if not mask.any():
        mask[len(mask) // 2, len(mask) // 2] = True
    return before, painted, mask


def covers_sheet(mask: Mask) -> bool:
    """Whether a mask spans its window in both directions, as crazing does and a scratch does not."""
    box = bounding_box(mask)
    return all(part.stop - part.start >= WHOLE_SHEET * len(mask) for part in box)


def edge_fade(side: int, window: Window, shape: tuple[int, int]) -> Weights:
    """1 inside a square window, falling to 0 at its edges, except where these are the photograph's own."""
    steps = np.arange(side, dtype=np.float32)
    fade = np.ones((side, side), np.float32)
    for axis, (part, length) in enumerate(zip(window, shape, strict=True)):
        ends = ((part.start > 0, steps), (part.stop < length, side - 1 - steps))
        for inner, distance in ends:
            if inner:
                ramp = smooth_step(distance / (EDGE_FADE * side))
                fade = fade * (ramp[:, None] if axis == 0 else ramp[None])
    return fade
