"""Photographs as the camera wrote them: a defect goes in at full resolution, with all channels and bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from metaldefect.artifacts import atomic_file
from metaldefect.errors import RejectedFileError, printable
from metaldefect.image_files import BIT_DEPTHS, colours_of, read_original
from metaldefect.image_files import Levels as FileLevels
from metaldefect.images import UnreadableImageError, write_png

Levels = NDArray[np.float32]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Window = tuple[slice, slice]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as in Pillow's conversion to grey


@dataclass(frozen=True)
class Photograph:
    """An image with its own channels and bit depth.

    Attributes:
        pixels: `uint8` or `uint16`, `[H, W]` grey or `[H, W, C]`, C being 2 (grey and alpha), 3, or 4 (with
            alpha).
        white: the value that counts as white: 255 for 8 bits; for 16 bits that of the dataset's bit depth,
            because cameras write 12 bits into 16.
        black: the value that counts as black. A dataset whose levels are clipped has values beyond the two.
    """

    pixels: Pixels
    white: float
    black: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def colours(self) -> int:
        """Number of channels without alpha: 1 or 3."""
        return 1 if self.pixels.ndim == 2 or self.pixels.shape[2] == 2 else 3

    @property
    def channels(self) -> int:
        """Number of channels with alpha: 1 to 4."""
        return 1 if self.pixels.ndim == 2 else self.pixels.shape[2]

    @property
    def suffix(self) -> str:
        """The kind of file that keeps every bit: `.png`, or `.tif` for 16-bit colour."""
        return ".tif" if self.pixels.ndim == 3 and self.pixels.dtype == np.uint16 else ".png"

    def levels(self, window: Window) -> Levels:
        """Levels in [0, 255] inside a window, `float32 [h, w, colours]`."""
        cut = self.pixels[window]
        cut = cut[..., None] if cut.ndim == 2 else cut[..., : self.colours]
        grey = (cut.astype(np.float32) - np.float32(self.black)) * np.float32(
            255.0 / (self.white - self.black)
        )
        return grey.clip(0.0, 255.0)

    def changed_by(self, window: Window, change: Levels) -> Photograph:
        """A copy with `change` added inside a window; a pixel whose change is 0 keeps its exact value.

        Args:
            window: where.
            change: `float32 [h, w, colours]`, in levels of [0, 255].
        """
        pixels = self.pixels.copy()
        inside = pixels[window][..., None] if pixels.ndim == 2 else pixels[window][..., : self.colours]
        added = inside + change * np.float32((self.white - self.black) / 255.0)
        # Beyond white lies no level of the camera: a reader would take the image for one of more bits
        low, high = np.minimum(inside, self.black), np.maximum(inside, self.white)
        inside[...] = np.rint(np.clip(added, low, high)).astype(pixels.dtype)
        return replace(self, pixels=pixels)


def grey_of(levels: Levels) -> Levels:
    """Levels `[h, w, 1 or 3]` as grey, `float32 [h, w]`."""
    return levels[..., 0] if levels.shape[2] == 1 else levels @ LUMA


def as_photograph(pixels: Pixels, depth: FileLevels | None = None) -> Photograph:
    """Wrap an array; None: white is that of the smallest depth in `BIT_DEPTHS` that holds every pixel.

    Raises:
        ValueError: neither `uint8` nor `uint16`, or not `[H, W]` or `[H, W, 2 to 4]`.
        RejectedFileError: a pixel is beyond levels that do not clip.
    """
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (2, 3, 4)):
        raise ValueError(f"expected [H, W] or [H, W, 2 to 4], got {pixels.shape}")
    if pixels.dtype == np.uint8:
        return Photograph(pixels, 255)
    if pixels.dtype != np.uint16:
        raise ValueError(f"expected uint8 or uint16, got {pixels.dtype}")
    brightest = int(colours_of(pixels).max())
    if depth is None:
        return Photograph(pixels, 2 ** next(bits for bits in BIT_DEPTHS if brightest < 2**bits) - 1)
    if brightest > depth.high and not depth.clip:
        raise RejectedFileError(
            f"levels up to {brightest}, beyond the range 0 to {depth.high:g} of this dataset: the images come"
            " from different settings of the camera"
        )
    return Photograph(pixels, depth.high, depth.low)


def read_photograph(path: Path | str, depth: FileLevels | None = None) -> Photograph:
    """Read an image without reducing its bits or channels, by the rules of `metaldefect.image_files`.

    Args:
        path: the image file.
        depth: levels of its dataset (see `find_levels`), of which the ends are black and white; None: found
            from this image alone, which is right where it is only shown or moved unchanged.

    Raises:
        UnreadableImageError: the rules refuse the file, or it has more than 16 bits per pixel.
    """
    try:
        pixels = read_original(path)
        if pixels.dtype not in (np.uint8, np.uint16):
            raise RejectedFileError(f"{pixels.dtype} pixels: save it with 8 or 16 bits, grey or RGB")
        return as_photograph(cast(Pixels, pixels), depth)
    except RejectedFileError as error:
        raise UnreadableImageError(f"{printable(str(path))}: {error}") from error


def write_photograph(path: Path, photograph: Photograph) -> None:
    """Write a photograph without loss, atomically; `path` must end with `photograph.suffix`."""
    if path.suffix != photograph.suffix:
        raise ValueError(f"{path} should end with {photograph.suffix}")
    with atomic_file(path) as temporary:
        if photograph.suffix == ".tif":
            tifffile.imwrite(temporary, photograph.pixels, photometric="rgb")
        elif photograph.pixels.dtype == np.uint16:
            Image.fromarray(photograph.pixels).save(temporary, format="PNG", compress_level=1)
        else:
            write_png(temporary, photograph.pixels.astype(np.uint8, copy=False))
