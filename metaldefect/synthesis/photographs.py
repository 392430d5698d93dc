"""Photographs as the camera wrote them: a defect goes in at full resolution, with all channels and bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from metaldefect.artifacts import atomic_file
from metaldefect.errors import UserError
from metaldefect.images import UnreadableImageError, write_png

Levels = NDArray[np.float32]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Window = tuple[slice, slice]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as in Pillow's conversion to grey
BIT_DEPTHS = (10, 12, 14, 16)  # of sensors whose values arrive in 16-bit files
DIRECT_MODES = frozenset({"L", "LA", "RGB", "RGBA"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})


@dataclass(frozen=True)
class Photograph:
    """An image with its own channels and bit depth.

    Attributes:
        pixels: `uint8` or `uint16`, `[H, W]` grey or `[H, W, C]`, C being 2 (grey and alpha), 3, or 4 (with
            alpha).
        white: the value that counts as white: 255 for 8 bits; for 16 bits that of the smallest depth of
            10, 12, 14 or 16 bits that holds the brightest pixel, because cameras write 12 bits into 16.
    """

    pixels: Pixels
    white: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def colours(self) -> int:
        """Number of channels without alpha: 1 or 3."""
        return 1 if self.pixels.ndim == 2 or self.pixels.shape[2] == 2 else 3

    @property
    def suffix(self) -> str:
        """The kind of file that keeps every bit: `.png`, or `.tif` for 16-bit colour."""
        return ".tif" if self.pixels.ndim == 3 and self.pixels.dtype == np.uint16 else ".png"

    def levels(self, window: Window) -> Levels:
        """Levels in [0, 255] inside a window, `float32 [h, w, colours]`."""
        cut = self.pixels[window]
        cut = cut[..., None] if cut.ndim == 2 else cut[..., : self.colours]
        return cut.astype(np.float32) * np.float32(255.0 / self.white)

    def changed_by(self, window: Window, change: Levels) -> Photograph:
        """A copy with `change` added inside a window; a pixel whose change is 0 keeps its exact value.

        Args:
            window: where.
            change: `float32 [h, w, colours]`, in levels of [0, 255].
        """
        pixels = self.pixels.copy()
        inside = pixels[window][..., None] if pixels.ndim == 2 else pixels[window][..., : self.colours]
        added = inside + change * np.float32(self.white / 255.0)
        inside[...] = np.clip(np.rint(added), 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
        return replace(self, pixels=pixels)


def grey_of(levels: Levels) -> Levels:
    """Levels `[h, w, 1 or 3]` as grey, `float32 [h, w]`."""
    return levels[..., 0] if levels.shape[2] == 1 else levels @ LUMA


def as_photograph(pixels: Pixels) -> Photograph:
    """Wrap an array and find its white level.

    Raises:
        ValueError: neither `uint8` nor `uint16`, or not `[H, W]` or `[H, W, 2 to 4]`.
    """
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (2, 3, 4)):
        raise ValueError(f"expected [H, W] or [H, W, 2 to 4], got {pixels.shape}")
    if pixels.dtype == np.uint8:
        return Photograph(pixels, 255)
    if pixels.dtype != np.uint16:
        raise ValueError(f"expected uint8 or uint16, got {pixels.dtype}")
    brightest = int(pixels.max())
    bits = next(bits for bits in BIT_DEPTHS if brightest < 2**bits)
    return Photograph(pixels, 2**bits - 1)


def read_photograph(path: Path | str) -> Photograph:
    """Read an image without reducing its bits or channels, upright (EXIF orientation applied).

    Palettes become RGB. 16-bit colour is read from TIFF only: Pillow reduces it to 8 bits in PNG.

    Raises:
        UnreadableImageError: the file cannot be decoded, or only by losing bits.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            if image.format == "TIFF" and loses_bits(image):
                return read_tiff(path)
            return as_photograph(pixels_of(image, path))
    except UnidentifiedImageError as error:
        if path.suffix.lower() in TIFF_SUFFIXES:
            return read_tiff(path)
        raise UnreadableImageError(f"{path}: not an image") from error
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: {error}") from error


def loses_bits(image: Image.Image) -> bool:
    """Whether Pillow would decode 16-bit colour to 8 bits."""
    return image.mode in ("RGB", "RGBA") and any("16" in str(tile[3]) for tile in getattr(image, "tile", []))


def pixels_of(image: Image.Image, path: Path) -> Pixels:
    """Decode an opened image; raises `UnreadableImageError` for modes that would lose bits."""
    if loses_bits(image):
        raise UnreadableImageError(f"{path}: 16-bit colour in PNG: save it as TIFF to keep all its bits")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("P", "PA"):
        upright = upright.convert("RGB")
    if upright.mode in ("1",):
        upright = upright.convert("L")
    if upright.mode in DIRECT_MODES:
        return np.asarray(upright)
    if upright.mode.startswith("I"):
        values = np.asarray(upright)
        if values.min() >= 0 and values.max() < 2**16:
            return values.astype(np.uint16)
    raise UnreadableImageError(f"{path}: mode {upright.mode}: save it as 8 or 16 bits, grey or RGB")


def read_tiff(path: Path) -> Photograph:
    """Read a TIFF that Pillow does not know, such as 16-bit colour."""
    try:
        return as_photograph(tifffile.imread(path))
    except (tifffile.TiffFileError, ValueError, OSError) as error:
        raise UnreadableImageError(f"{path}: {error}") from error


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
