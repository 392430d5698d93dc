"""A defect as a change of a photograph: added inside a window, with the exact mask of what can be seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from metaldefect.images import U8, as_channels, to_u8
from metaldefect.synthesis.inpainting import Mask, feathered, visible_change
from metaldefect.synthesis.photographs import LUMA, Levels, Photograph, Window, grey_of

SMALLEST_VISIBLE = 12  # pixels; fewer are a speck
SMALLEST_SHARE = 0.25  # of the region that was to change
GAINS = (0.6, 2.5)  # limits of the contrast matching
HEADROOM = 3.0  # grey levels that stay free at black and white


class Change(NamedTuple):
    """What a method proposes: levels to add inside a window.

    Attributes:
        window: where in the photograph.
        added: `float32 [h, w, 1 or 3]` in levels of [0, 255]; one channel keeps the metal's hue.
        brush: `bool [h, w]`, where the defect was to be.
        source: name of the real defect, empty for drawn and procedural ones.
        details: what was chosen at random, for the manifest.
    """

    window: Window
    added: Levels
    brush: Mask
    source: str
    details: dict[str, float]


class Applied(NamedTuple):
    """A photograph after a change.

    Attributes:
        photograph: the changed copy; every pixel farther than the feather from `mask` has its old value.
        mask: `bool [H, W]`, where the change can be seen.
        contrast: mean absolute change inside the mask, in levels of [0, 255]; 0 if nothing can be seen.
        visible: whether a person would see it.
    """

    photograph: Photograph
    mask: Mask
    contrast: float
    visible: bool


def apply_change(photograph: Photograph, change: Change, feather: float) -> Applied:
    """Add a change, but only around what can be seen of it.

    The written mask is where the photograph visibly changed. The change fades to nothing within `feather`
    pixels of that mask, so that everything farther away keeps its exact values.

    Args:
        photograph: the image before.
        change: what to add.
        feather: width of the fade in pixels.
    """
    before = photograph.levels(change.window)
    added = in_colours(change.added, before)
    seen = visible_change(to_u8(before), to_u8(before + added))
    mask = np.zeros(photograph.shape, bool)
    enough = max(SMALLEST_VISIBLE, SMALLEST_SHARE * np.count_nonzero(change.brush))
    if np.count_nonzero(seen) < enough:
        return Applied(photograph, mask, 0.0, False)
    after = photograph.changed_by(change.window, added * feathered(seen, feather)[..., None])
    mask[change.window] = seen
    contrast = np.abs(grey_of(after.levels(change.window)) - grey_of(before))[seen].mean()
    return Applied(after, mask, float(contrast), True)


def in_colours(added: Levels, before: Levels) -> Levels:
    """A change in the photograph's channels: grey on colour keeps the hue, colour on grey is its luma."""
    colours = before.shape[2]
    if added.shape[2] == colours:
        return added
    if colours == 1:
        return (added @ LUMA)[..., None]
    hue = before / np.maximum(grey_of(before), 1.0)[..., None]
    return added * np.clip(hue, 0.5, 2.0)


def recolour(before: U8, after: U8) -> U8:
    """Bring a grey change of an image into its colours.

    Args:
        before: the image, `uint8 [H, W]` or `[H, W, 3]`.
        after: its changed grey levels, `uint8 [H, W]`; or colours, `[H, W, 3]`, which stay as they are.

    Returns:
        An image in colour if either is; pixels whose grey level is the same keep their colours exactly.
    """
    if before.ndim == 2 or after.ndim == 3:
        return after
    added = after.astype(np.float32) - as_channels(before, 1)
    return to_u8(before + in_colours(added[..., None], before.astype(np.float32)))


def contrast_gain(residual: Levels, level: float, source_level: float) -> float:
    """Factor on a residual: metal that reflects half as much shows half the contrast, without clipping."""
    gain = float(np.clip(level / max(source_level, 1.0), *GAINS))
    low, high = np.percentile(residual, [2, 98])
    if low < 0:
        gain = min(gain, max(level - HEADROOM, 1.0) / -float(low))
    if high > 0:
        gain = min(gain, max(255.0 - HEADROOM - level, 1.0) / float(high))
    return gain
