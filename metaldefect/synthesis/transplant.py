"""Move real defects to new places: what a masked defect adds to its metal is added to other metal.

The residual of a defect is its photograph minus the metal that would lie there without it, which is filled
in from around the mask. The residual is turned, mirrored and scaled, its contrast is matched to the new
metal's brightness, and it fades out beside the mask. Where the residual is only grain, because annotators
draw generous masks, the new metal keeps its own. This needs no training; it cannot invent new shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from metaldefect.synthesis.change import Change, contrast_gain
from metaldefect.synthesis.config import TransplantConfig
from metaldefect.synthesis.inpainting import Mask, Weights, feathered, smooth_step
from metaldefect.synthesis.mask_makers import cut_sides
from metaldefect.synthesis.photographs import Levels, Photograph, Window, grey_of
from metaldefect.synthesis.placement import Spot, bounding_box, extent_of, free_place

GAP = 12  # parts of a mask less than this many pixels apart are one defect
HALO = 4  # pixels beside a mask that may belong to the defect: annotators cut off soft edges
MARGIN = 10  # pixels of surrounding metal that travel with a defect
SMALLEST_AREA = 12  # pixels of a mask's part that count as a defect
LARGEST_SHARE = 0.4  # of the photograph; larger defects leave too little metal to measure against
CUT_FADE = 0.15  # a defect cut off by its photograph's border fades over this share of its length
DEFECT_SCALES = (1.0, 3.0)  # pixels of blur at which a residual is compared with grain
LARGEST_EXTENT = 0.9  # of the shorter side of the room


@dataclass(frozen=True)
class Defect:
    """One real defect cut out of its photograph.

    Attributes:
        name: of the photograph, with the number of the defect in it.
        residual: what the defect adds to its metal, `float32 [h, w, 1 or 3]`, in levels of [0, 255].
        mask: `bool [h, w]`.
        weight: `float32 [h, w]`, 1 where the residual is defect, 0 where it is grain or was cut off.
        level: grey level of the metal around it.
        window: where in the photograph `mask` and `residual` lie.
        cut: whether its photograph's border cuts it off, so that its end is missing.
    """

    name: str
    residual: Levels = field(repr=False)
    mask: Mask = field(repr=False)
    weight: Weights = field(repr=False)
    level: float
    window: Window
    cut: bool


def fill_hole(levels: Levels, hole: Mask) -> Levels:
    """Continue `[h, w, C]` smoothly into a hole, by averaging known pixels over growing scales (pull-push).

    Pixels outside the hole keep their values. A hole without surroundings becomes 0.
    """
    known = (~hole).astype(np.float32)
    if not hole.any():
        return levels
    if min(hole.shape) < 4:
        total = known.sum()
        mean = (levels * known[..., None]).sum(axis=(0, 1)) / max(total, 1.0)
        return np.where(hole[..., None], mean, levels).astype(np.float32)
    padded = [(0, -side % 2) for side in hole.shape]
    sums = np.pad(levels * known[..., None], [*padded, (0, 0)])
    counts = np.pad(known, padded)
    halves = tuple(side // 2 for side in counts.shape)
    blocks = counts.reshape(halves[0], 2, halves[1], 2).sum(axis=(1, 3))
    means = sums.reshape(halves[0], 2, halves[1], 2, -1).sum(axis=(1, 3))
    coarse = fill_hole((means / np.maximum(blocks, 1.0)[..., None]).astype(np.float32), blocks == 0)
    zoomed = np.stack(
        [
            ndimage.zoom(coarse[..., k], 2, order=1, mode="nearest", grid_mode=True)
            for k in range(levels.shape[2])
        ],
        axis=-1,
    )[: hole.shape[0], : hole.shape[1]]
    return np.where(hole[..., None], zoomed, levels).astype(np.float32)


def blur_channels(levels: Levels, sigma: float) -> Levels:
    """Gaussian blur of `[h, w, C]` within each channel."""
    return ndimage.gaussian_filter(levels, (sigma, sigma, 0), mode="nearest").astype(np.float32)


def blur_outside(levels: Levels, hole: Mask, sigma: float) -> Levels:
    """Gaussian blur that ignores the hole (normalised convolution); meaningless deep inside it."""
    known = (~hole).astype(np.float32)
    weight = ndimage.gaussian_filter(known, sigma, mode="nearest")
    return blur_channels(levels * known[..., None], sigma) / np.maximum(weight, 1e-3)[..., None]


def metal_without(levels: Levels, mask: Mask) -> Levels:
    """What the metal would look like without the defect, smooth: `float32 [h, w, C]`."""
    hole = ndimage.binary_dilation(mask, iterations=HALO)
    smooth = fill_hole(blur_outside(levels, hole, 3.0), hole)
    softened = blur_channels(smooth, 4.0)  # the fill has creases where its scales meet
    return np.where(hole[..., None], softened, smooth).astype(np.float32)


def cut_defects(photograph: Photograph, mask: Mask, name: str) -> list[Defect]:
    """Cut the defects under a mask out of their photograph, largest first.

    Args:
        photograph: with the defects.
        mask: `bool [H, W]`; parts less than 12 pixels apart are one defect.
        name: of the photograph.

    Returns:
        None of a mask's parts that are specks or cover more than 40 % of the photograph.
    """
    joined = ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=GAP // 2)
    parts, count = ndimage.label(joined)
    found = []
    for number in range(1, count + 1):
        part = mask & (parts == number)
        if SMALLEST_AREA <= np.count_nonzero(part) <= LARGEST_SHARE * part.size:
            found.append(cut_defect(photograph, part, mask & ~part, f"{name}#{number}"))
    return sorted(found, key=lambda defect: -int(defect.mask.sum()))


def cut_defect(photograph: Photograph, mask: Mask, others: Mask, name: str) -> Defect:
    """Cut out one defect; `others` marks further defects, which are not metal to measure against."""
    rows, columns = box = bounding_box(mask)
    margin = MARGIN + extent_of(box) // 4
    window = (
        slice(max(rows.start - margin, 0), rows.stop + margin),
        slice(max(columns.start - margin, 0), columns.stop + margin),
    )
    levels, inside, others = photograph.levels(window), mask[window], others[window]
    metal = metal_without(levels, inside | others)
    residual = levels - metal
    around = ~ndimage.binary_dilation(inside | others, iterations=HALO + 1)
    level = float(np.median(grey_of(metal)[around if around.any() else ~inside]))
    weight = defect_weight(grey_of(residual), inside, around) * border_fade(mask, window)
    weight *= ~ndimage.binary_dilation(others, iterations=2)
    return Defect(name, residual, inside, weight.astype(np.float32), level, window, any(cut_sides(mask)))


def defect_weight(residual: Levels, mask: Mask, around: Mask) -> Weights:
    """1 where a residual `[h, w]` stands out from the grain around the mask, 0 where it is grain."""
    halo = ndimage.binary_dilation(mask, iterations=HALO)
    strength = np.zeros(mask.shape, np.float32)
    for scale in DEFECT_SCALES:
        smooth = np.abs(ndimage.gaussian_filter(residual, scale))
        grain = 1.4826 * float(np.median(smooth[around])) if around.any() else 1.0
        strength = np.maximum(strength, smooth / max(grain, 0.5) * halo)
    stands_out = ndimage.maximum_filter(smooth_step((strength - 2.0) / 2.0), 3)
    return ndimage.gaussian_filter(stands_out, 1.5).astype(np.float32)


def border_fade(mask: Mask, window: tuple[slice, slice]) -> Weights:
    """1 inside, falling to 0 at the photograph's border: over 3 pixels, or more where it cuts the defect."""
    height, width = mask.shape
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    length = CUT_FADE * extent_of(bounding_box(mask))
    distances = (rows[:, None], height - 1 - rows[:, None], columns[None], width - 1 - columns[None])
    fade = np.ones(mask.shape, np.float32)
    for cut, distance in zip(cut_sides(mask), distances, strict=True):
        fade = fade * smooth_step(distance / (max(length, 3.0) if cut else 3.0))
    return fade[window]


def transplant(
    canvas: Photograph,
    defect: Defect,
    spot: Spot,
    rng: np.random.Generator,
    config: TransplantConfig,
    feather: float,
) -> Change | None:
    """Move a real defect to a place in another photograph.

    Args:
        canvas: the photograph to change.
        defect: what to move.
        spot: place and size; a mask's bounding box gives both, and limits the change.
        rng: source of mirroring, angle, scale and place.
        config: their ranges.
        feather: width in pixels over which the defect fades out beside its mask.

    Returns:
        The change, or None if the photograph has no room, or if the defect as turned lies beside the mask.
    """
    turned, details = turn(defect, spot, rng, config, round(feather) + 1)
    place = free_place(rng, turned.mask, spot)
    if place is None:
        return None
    height, width = turned.mask.shape
    window = slice(place[0], place[0] + height), slice(place[1], place[1] + width)
    weight = turned.weight * feathered(turned.mask, feather)
    brush = turned.mask
    if spot.mask is not None:
        weight, brush = weight * feathered(spot.mask[window], feather), brush & spot.mask[window]
        if not brush.any():  # a thin defect may pass between the parts of the mask
            return None
    levels = canvas.levels(window)
    sigma = float(np.clip(extent_of(bounding_box(turned.mask)) / 6, 2.0, 12.0))
    smooth = blur_channels(levels, sigma)
    residual = turned.residual
    if residual.shape[2] != levels.shape[2]:
        residual = np.repeat(grey_of(residual)[..., None], levels.shape[2], axis=2)
    gain = contrast_gain(grey_of(residual)[brush], float(np.mean(grey_of(smooth))), defect.level)
    added = weight[..., None] * (smooth + gain * residual - levels)
    return Change(window, added.astype(np.float32), brush, defect.name, {**details, "gain": gain})


def turn(
    defect: Defect,
    spot: Spot,
    rng: np.random.Generator,
    config: TransplantConfig,
    margin: int,
) -> tuple[Defect, dict[str, float]]:
    """Mirror, turn and scale a defect, and crop it to `margin` pixels around its mask."""
    mirror, angle = int(rng.integers(4)), float(rng.uniform(-config.turn, config.turn))
    scale = float(rng.uniform(config.smallest, config.largest))
    extent = extent_of(bounding_box(defect.mask))
    if spot.mask is not None:
        scale = extent_of(bounding_box(spot.mask)) / extent
    elif spot.size is not None:
        scale = spot.size / extent
    scale = min(scale, LARGEST_EXTENT * min(spot.room_shape) / (extent + 2 * margin))
    steps = (slice(None, None, -1 if mirror & 1 else 1), slice(None, None, -1 if mirror & 2 else 1))

    def warp(field: Levels, order: int) -> Levels:
        """Rotate and scale about the middle; what lies outside the cut is 0."""
        radians = np.deg2rad(angle)
        rotation = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        shape = np.array(field.shape)
        size = np.ceil(np.abs(rotation) @ shape * scale).astype(int) + 2
        matrix = rotation / scale
        offset = (shape - 1) / 2 - matrix @ ((size - 1) / 2)
        source = ndimage.gaussian_filter(field, 0.4 / scale) if scale < 0.8 else field
        return np.asarray(ndimage.affine_transform(source, matrix, offset, tuple(size), order=order))

    mask = warp(defect.mask[steps].astype(np.float32), 1) > 0.5
    if not mask.any():
        mask[mask.shape[0] // 2, mask.shape[1] // 2] = True
    rows, columns = bounding_box(mask)
    crop = (
        slice(max(rows.start - margin, 0), rows.stop + margin),
        slice(max(columns.start - margin, 0), columns.stop + margin),
    )
    channels = [warp(defect.residual[..., k][steps], 3)[crop] for k in range(defect.residual.shape[2])]
    weight = np.clip(warp(defect.weight[steps], 1)[crop], 0.0, 1.0)
    made = Defect(
        defect.name,
        np.stack(channels, axis=-1).astype(np.float32),
        mask[crop],
        weight.astype(np.float32),
        defect.level,
        defect.window,
        defect.cut,
    )
    return made, {"mirror": mirror, "angle": angle, "scale": scale}
