"""Frames as the graph takes them, from arrays or from image files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaldefect.deploy.bundle import GREY_RANGE, FrameRule
from metaldefect.errors import RejectedFileError
from metaldefect.image_files import MAX_PIXELS, MIN_SIDE, Levels


def as_frame(image: NDArray[Any], rule: FrameRule) -> NDArray[Any]:
    """Turn an image into the `[H, W, C]` array that the graph takes.

    A detector for 16-bit frames also takes 8-bit ones: they are spread over its levels, and the graph makes
    the same levels of them again.

    Args:
        image: `uint8 [H, W]`, `[H, W, 1]` or RGB `[H, W, 3]`; for a detector of 16-bit frames also `uint16`.
        rule: the detector's.

    Raises:
        RejectedFileError: the image has another type, number of channels or size than the rule allows, or a
            level outside the detector's range.
    """
    frame = image[..., None] if image.ndim == 2 else image
    if frame.ndim != 3 or frame.shape[2] not in rule.channels:
        listed = " or ".join(map(str, rule.channels))
        raise RejectedFileError(
            f"expected an image [H, W] or [H, W, C] with {listed} channels, got {list(image.shape)}"
        )
    height, width = frame.shape[:2]
    if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
        raise RejectedFileError(
            f"{width}x{height} pixels: at least {MIN_SIDE} per side and at most {MAX_PIXELS:,} in all are"
            " needed"
        )
    if rule.frame_levels is not None:
        frame = on_levels(frame, rule.frame_levels)
    if frame.dtype != np.dtype(f"uint{rule.type[1:]}"):
        raise RejectedFileError(f"pixels of type {frame.dtype}: this detector takes {taken_types(rule)}")
    return np.ascontiguousarray(frame)


def taken_types(rule: FrameRule) -> str:
    """What types of pixels a detector takes, in words."""
    if rule.type == "u16":
        return "uint8 or uint16"
    if rule.levels is not None:
        return "uint8; its levels are applied when a file is read"
    return "uint8; it was trained on 8-bit images"


def on_levels(frame: NDArray[Any], levels: Levels) -> NDArray[Any]:
    """Spread an 8-bit frame over the levels; check that a deeper one lies within them."""
    if frame.dtype == np.uint8:
        if levels.high - levels.low < GREY_RANGE:
            raise RejectedFileError("8-bit image, but this detector tells fewer levels of 16 bits apart")
        return np.rint(levels.low + frame * ((levels.high - levels.low) / GREY_RANGE)).astype(np.uint16)
    if not levels.clip and (frame.min() < levels.low or frame.max() > levels.high):
        raise RejectedFileError(
            f"levels from {frame.min()} to {frame.max()}, beyond this detector's range {levels.low:g} to"
            f" {levels.high:g}: the camera's settings differ from those of the training images"
        )
    return frame
