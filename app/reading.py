"""Read what people hand to the demo: image files, painted masks, numbers; every refusal says why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from app.studio import Mask, Settings
from metaldefect.errors import RejectedFileError, UserError
from metaldefect.image_files import Levels, read_mask, read_original, read_pixels
from metaldefect.images import U8, Channels, as_channels, resize

LONGEST_SIDE = 1024  # larger photographs are shrunk, so that an answer takes seconds
# From this mean difference between colour channels on, in grey levels, an image counts as a colour picture
COLOURFUL = 12.0
SEED_LIMIT = 2**63 - 1
SHOWN_LETTERS = 40  # of a wrong value, in the error about it


class Photograph(NamedTuple):
    """An image as the demo works with it, `uint8 [H, W]` or `[H, W, 3]`, and remarks on what was changed."""

    image: U8
    remarks: list[str]


@contextmanager
def told() -> Iterator[None]:
    """Show the project's own errors on the page, with their reason."""
    try:
        yield
    except (UserError, RejectedFileError) as error:
        raise gr.Error(str(error), title="This does not work") from error


def read_photograph(
    path: str | Path | None, channels: Channels = 1, levels: Levels | None = None
) -> Photograph:
    """Read an uploaded file by the rules of every other door, and shrink it to `LONGEST_SIDE`.

    Args:
        path: the file.
        channels: 1 to read it as grey, 3 in colour.
        levels: how a file with more than 8 bits is read; None refuses it.

    Raises:
        UserError: no file, or it is not an image that the rules allow; the message says why.
    """
    if path is None:
        raise UserError("Choose or upload an image first.")
    name = Path(path).name
    try:
        image = read_pixels(path, colour=True, levels=levels)
    except RejectedFileError as error:
        raise UserError(f"{name}: {error}") from error
    remarks = []
    spread = float(np.ptp(image.astype(np.int16), axis=2).mean())
    if channels == 1 and spread > COLOURFUL:
        remarks.append(f"{name} is a colour picture: it was turned grey, as all training images are.")
    image = as_channels(image, channels)
    height, width = image.shape[:2]
    factor = LONGEST_SIDE / max(height, width)
    if factor < 1:
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        image = resize(image, size)
        remarks.append(f"{name} was shrunk from {width} × {height} to {size[1]} × {size[0]} pixels.")
    return Photograph(image, remarks)


def read_mask_of(path: str | Path | None, original: str | Path, image: U8) -> Mask:
    """Read an uploaded mask file of an image, and shrink it as the image was shrunk.

    Raises:
        UserError: no file, another size, or unclear levels.
    """
    if path is None:
        raise UserError("A mask is needed: an image of the same size, white where the defect should go.")
    try:
        height, width = read_original(original).shape[:2]
        mask = read_mask(path, (height, width), Path(original))
    except RejectedFileError as error:
        raise UserError(f"{Path(path).name}: {error}") from error
    return resize(mask, (image.shape[0], image.shape[1]), nearest=True) > 0


def painted_mask(drawing: dict[str, Any] | None, image: U8 | None) -> Mask:
    """The painted mask of an image `uint8 [H, W]` or `[H, W, 3]`: what the editor's layers cover.

    Raises:
        UserError: no image, nothing painted, or everything painted.
    """
    if image is None:
        raise UserError("Choose or upload an image first.")
    mask = np.zeros(image.shape[:2], bool)
    for layer in (drawing or {}).get("layers") or []:
        alpha = np.asarray(layer)
        alpha = alpha[..., -1] if alpha.ndim == 3 else alpha
        mask |= resize(np.ascontiguousarray(alpha), (image.shape[0], image.shape[1]), nearest=True) > 0
    if not mask.any():
        raise UserError("Paint a mask first: mark with the brush where the defect should go.")
    if mask.all():
        raise UserError("The mask covers the whole image: leave some of it, or use the tab Generate.")
    return mask


def read_settings(seed: Any, guidance: Any, temperature: Any, steps: Any) -> Settings:
    """Settings from the page's fields or from a program.

    Raises:
        UserError: the seed is not a whole number from 0 to 2^63 - 1, or another number is missing,
            no number, or out of range.
    """
    text = "" if seed is None else str(seed).strip()
    # Python refuses to convert thousands of digits with an error of its own
    if not text.isdecimal() or len(text) > len(str(SEED_LIMIT)) or int(text) > SEED_LIMIT:
        shown = repr(text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}…")
        raise UserError(
            f"The seed must be a whole number such as 0 or 42, of at most {SEED_LIMIT}, not {shown}."
        )
    settings = Settings(
        int(text),
        read_number(guidance, "guidance"),
        read_number(temperature, "temperature"),
        read_whole_number(steps, "steps"),
    )
    settings.sampling()
    return settings


def read_number(value: Any, name: str) -> float:
    """A number from a field; `name` is what the error calls it.

    Raises:
        UserError: it is missing, no number, or not finite.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        shown = repr(value)[:SHOWN_LETTERS] if isinstance(value, str | float) else type(value).__name__
        raise UserError(f"{name} must be a number, not {'nothing' if value is None else shown}")
    return number


def read_whole_number(value: Any, name: str) -> int:
    """`read_number` of a number without decimals; raises UserError for others."""
    number = read_number(value, name)
    if not number.is_integer():
        raise UserError(f"{name} must be a whole number, not {number:g}")
    return int(number)
