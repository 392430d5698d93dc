"""Decode image files by stated rules, the same for every door: merge, training, inference and demo.

- PNG, JPEG, BMP and TIFF with one page, from 16x16 pixels to 50 megapixels, at most eight times as long as
  wide (a longer strip would be squashed by the resizing to a square).
- Turned upright as EXIF says. Palette images have the colours of their palette. An alpha channel must be
  opaque everywhere.
- Colour becomes grey by Rec. 601 (Pillow's `L`).
- More than 8 bits need `Levels`: which level becomes black and which white, once per dataset, stored with
  the model. 16-bit colour is read from TIFF only, because Pillow reduces it to 8 bits in PNG.

`read_original` gives the channels and bits as the camera wrote them, by the same rules; `read_pixels` gives
8 bits, grey or colour. Everything else is refused with the reason: CMYK, animations, GIF, WebP.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from metaldefect.errors import RejectedFileError, UserError, printable

U8 = NDArray[np.uint8]
Original = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int32] | NDArray[np.float32]
LevelsSetting = int | tuple[float, float]  # a bit depth, or the levels that become black and white

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
# These are listed as images, so that reading them refuses them with a clear reason.
REFUSED_SUFFIXES = frozenset({".gif", ".webp", ".jp2", ".avif", ".heic", ".pgm", ".ppm", ".tga"})
# Decoders allowed on untrusted files; GIF and WebP are opened only to refuse them with a clear reason.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")
READ_FORMATS = frozenset({"JPEG", "MPO", "PNG", "BMP", "TIFF"})
# What file managers create; names that begin with a dot are hidden too
DESKTOP_ENTRIES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
DEEP_SUFFIXES = frozenset({".tif", ".tiff", ".png"})
# First bytes of TIFF and BigTIFF, with the low or the high byte first
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DIRECT_MODES = frozenset({"L", "LA", "RGB", "RGBA"})  # whose channels are read as they are
OPAQUE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
MIN_SIDE = 16
MAX_PIXELS = 50_000_000
MAX_ASPECT = 8
BIT_DEPTHS = (8, 10, 12, 14, 16)
DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
SHALLOW_MODES = frozenset({"1", "L", "P", "RGB", "LA", "PA", "RGBA"})
TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # EXIF orientation: what makes it upright
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: partial(np.rot90, k=-1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}
# The same for Pillow, whose own function also writes EXIF anew and fails on odd tags of other kinds
TRANSPOSED: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_ORIENTATION = 0x0112
BITS_PER_SAMPLE = 258  # TIFF tag
PHOTOMETRIC = 262  # TIFF tag; 0: white is zero
SAMPLE_FORMAT, UNSIGNED, SIGNED = 339, 1, 2  # TIFF tag and two of its values
# How masks are coded; see `defect_pixels`
LARGEST_CLASS = 32
HALF, FEW_LEVELS, NOISE = 127, 4, 16


class DeepColourError(RejectedFileError):
    """16-bit colour, of which Pillow would drop the low bytes."""


@dataclass(frozen=True)
class Levels:
    """Which levels of an image with more than 8 bits per pixel become black and white.

    Attributes:
        low: the level that becomes 0.
        high: the level that becomes 255; those between are spread evenly.
        clip: whether levels beyond the two become black and white; if not, such an image is refused.
    """

    low: float
    high: float
    clip: bool

    @classmethod
    def of_setting(cls, setting: LevelsSetting | None) -> Levels | None:
        """Levels from a setting: a bit depth, or a low and a high level.

        Raises:
            UserError: the depth is not between 1 and 32, or low is not below high.
        """
        if setting is None:
            return None
        if isinstance(setting, int):
            if not 1 <= setting <= 32:
                raise UserError(f"levels: {setting}: a bit depth from 1 to 32 is needed")
            return cls.of_bits(setting)
        low, high = setting
        if not low < high:
            raise UserError(f"levels: [{low:g}, {high:g}]: the first must be below the second")
        return cls(float(low), float(high), clip=True)

    @classmethod
    def of_bits(cls, bits: int) -> Levels:
        """The full range of a bit depth, such as 12."""
        return cls(0.0, float(2**bits - 1), clip=False)

    def apply(self, pixels: NDArray[Any]) -> U8:
        """Turn levels of any shape and type into `uint8` of the same shape.

        Raises:
            RejectedFileError: a level is beyond the range and must not be clipped, or is no number.
        """
        if not self.clip and pixels.dtype.kind == "f":
            raise RejectedFileError("float pixels have no bit depth: set `levels: [black, white]`")
        lowest, highest = float(pixels.min()), float(pixels.max())
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise RejectedFileError("pixels that are no finite numbers")
        if not self.clip and (lowest < self.low or highest > self.high):
            raise RejectedFileError(
                f"levels from {lowest:g} to {highest:g}, beyond the range {self.low:g} to {self.high:g} of"
                " this dataset or model: the images come from different settings of the camera"
            )
        grey = (pixels.astype(np.float64) - self.low) * (255.0 / (self.high - self.low))
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def levels_setting(text: str) -> LevelsSetting:
    """The setting that a command line gives as `12` (a bit depth) or `0,1` (black and white).

    Raises:
        UserError: it is neither.
    """
    try:
        if "," not in text:
            return int(text)
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"--levels {printable(text)}: give a bit depth, such as 12, or black and white, such as 0,1"
        ) from error
    return low, high


def is_hidden_name(name: str) -> bool:
    """Whether a file manager or a notebook left an entry of this name: `._x.png`, `Thumbs.db`, ..."""
    return name.startswith(".") or name.lower() in DESKTOP_ENTRIES


def read_pixels(path: Path | str, *, colour: bool = False, levels: Levels | None = None) -> U8:
    """Read an image as grey `uint8 [H, W]` or, with `colour`, as `uint8 [H, W, 3]`.

    Args:
        path: the image file.
        colour: return three channels; a grey image has three equal ones.
        levels: how to read images with more than 8 bits; None refuses them.

    Raises:
        RejectedFileError: the image is unusable; the message gives the reason, not the path.
    """
    pixels = colours_of(read_original(path))
    if pixels.dtype != np.uint8:
        if levels is None:
            raise RejectedFileError(
                f"more than 8 bits per pixel ({pixels.dtype}) without known levels: they come with a model"
                " that was trained on such images, or with the dataset's setting `levels`"
            )
        pixels = levels.apply(pixels)
    if (pixels.ndim == 3) == colour:
        return pixels.astype(np.uint8, copy=False)
    return np.asarray(Image.fromarray(pixels).convert("RGB" if colour else "L"))


def read_original(path: Path | str) -> Original:
    """Read an image with all its channels and bits, upright.

    Returns:
        `uint8`, `uint16`, `int32` or `float32`, `[H, W]` grey or `[H, W, C]`: C is 2 (grey and alpha), 3
        (colour) or 4 (colour and alpha). An alpha channel is opaque everywhere.

    Raises:
        RejectedFileError: the image is unusable; the message gives the reason, not the path.
    """
    path = Path(path)
    try:
        image = upright(open_checked(path))
    except DeepColourError:
        if not is_tiff(path):
            raise
        return read_deep_tiff(path)
    if image.mode in DEEP_MODES:
        pixels = np.asarray(image)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if "transparency" in image.info or image.mode == "PA":
        check_opaque(np.asarray(image.convert("RGBA")))
    if image.mode not in DIRECT_MODES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.asarray(image)
    check_opaque(pixels)
    return pixels


def colours_of(pixels: Original) -> Original:
    """An image without its alpha channel: `[H, W]` or `[H, W, 3]`."""
    if pixels.ndim == 2:
        return pixels
    return pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]


def check_opaque(pixels: Original) -> None:
    """Raise `RejectedFileError` if an alpha channel (the last of 2 or 4) is transparent anywhere."""
    if pixels.ndim == 3 and pixels.shape[2] != 3 and pixels[..., -1].min() < OPAQUE[pixels.dtype]:
        raise RejectedFileError("transparent pixels: save it without an alpha channel")


def read_deep_tiff(path: Path) -> NDArray[np.uint16]:
    """Read 16-bit colour from a TIFF whose header `open_checked` has checked, upright.

    Raises:
        RejectedFileError: the file is broken, or compressed in a way that no installed codec knows.
    """
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            pixels = page.asarray()
            tag = page.tags.get(EXIF_ORIENTATION)
    except Exception as error:  # as in `open_checked`: broken bytes raise all kinds of exceptions
        reason = str(error).replace(str(path), path.name)
        raise RejectedFileError(f"16-bit colour that cannot be read: {printable(reason)}") from error
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
        pixels = np.moveaxis(pixels, 0, 2)  # one plane per channel
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise RejectedFileError(f"TIFF of {pixels.shape} {pixels.dtype}: save it as grey or RGB")
    check_opaque(pixels)
    turn = TURNS.get(tag.value if tag is not None else 1)
    return np.ascontiguousarray(turn(pixels) if turn else pixels)


def upright(image: Image.Image) -> Image.Image:
    """The image as EXIF says that it stands."""
    turn = TRANSPOSED.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def orientation_of(image: Image.Image) -> int:
    """EXIF's number of an image's orientation; 1, upright, where EXIF is broken or says nothing."""
    try:
        found = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # broken EXIF raises all kinds of exceptions; the pixels are fine
        return 1
    return found if isinstance(found, int) else 1


def read_mask(path: Path | str, size: tuple[int, int], image: Path | None = None) -> U8:
    """Read a mask of `size` (height, width) as `uint8 [H, W]` of {0, 255}; `defect_pixels` states the coding.

    Args:
        path: the mask file.
        size: of its image, upright.
        image: file of that image, to explain a wrong size.

    Raises:
        RejectedFileError: the mask is unreadable, differs from `size`, or its coding is unclear.
    """
    marked = defect_pixels(read_mask_levels(path, size, image), lossy=suffix_is_jpeg(path))
    return np.where(marked, np.uint8(255), np.uint8(0))


def read_mask_levels(path: Path | str, size: tuple[int, int], image: Path | None = None) -> NDArray[Any]:
    """The levels of a mask, `[H, W]`; arguments and errors as for `read_mask`, but for the coding."""
    opened = upright(open_checked(Path(path)))
    if (opened.height, opened.width) != size:
        found = f"mask of {opened.width}x{opened.height} pixels for an image of {size[1]}x{size[0]}"
        if (opened.width, opened.height) == size and image is not None and is_turned(image):
            found += ": it fits the stored pixels only, which EXIF turns; save image and mask upright"
        raise RejectedFileError(found)
    return coded_levels(opened)


def suffix_is_jpeg(path: Path | str) -> bool:
    """Whether a file calls itself JPEG, whose levels are not exact."""
    return Path(path).suffix.lower() in (".jpg", ".jpeg")


def is_turned(path: Path) -> bool:
    """Whether EXIF swaps width and height of an image file that can be read."""
    # Decoding a TIFF would turn it and drop the tag
    with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
        return orientation_of(image) in TURNED


def coded_levels(image: Image.Image) -> NDArray[Any]:
    """What codes the defect, `[H, W]`: palette index, opacity if it varies, else the largest channel.

    Raises:
        RejectedFileError: the mask is transparent everywhere.
    """
    if image.mode in ("P", "L", "1") or image.mode in DEEP_MODES:
        return np.asarray(image).astype(np.uint8) * 255 if image.mode == "1" else np.asarray(image)
    channels = np.asarray(
        image.convert("RGBA") if image.mode in ("LA", "PA", "RGBA") else image.convert("RGB")
    )
    if channels.shape[2] == 4:
        alpha = channels[..., 3]
        if alpha.max() == 0 and channels[..., :3].any():
            raise RejectedFileError("unclear mask: it is transparent everywhere, but has colours")
        if alpha.min() < 255:
            return alpha
    return channels[..., :3].max(axis=2)


def defect_pixels(levels: NDArray[Any], *, lossy: bool = False) -> NDArray[np.bool_]:
    """Which pixels of a mask are defect, `bool [H, W]`.

    - One level: the whole image, unless the level is 0.
    - 0 and one other level, or levels up to 32 (class numbers): whatever is not 0.
    - Up to 255 with smooth edges: above 127. A flat area of a lower level would be another class, so that
      mask is unclear.

    Args:
        levels: `[H, W]` of any type.
        lossy: JPEG has changed the levels a little.

    Raises:
        RejectedFileError: the coding is unclear; the message lists the levels.
    """
    found = distinct_levels(levels)
    if len(found) == 1 or (found[0] == 0 and (len(found) == 2 or found[-1] <= LARGEST_CLASS) and not lossy):
        return np.asarray(levels != 0)
    lowest = NOISE + 1 if lossy else 1
    low = found[(found >= lowest) & (found <= HALF)]
    is_255_coded = levels.dtype == np.uint8 and found[-1] > HALF and found[0] <= (NOISE if lossy else 0)
    if lossy and found[-1] <= NOISE:
        return np.zeros(levels.shape, bool)
    is_smooth = lossy or len(found) > FEW_LEVELS or not len(low)
    if is_255_coded and is_smooth and not has_flat_area(levels, lowest):
        return np.asarray(levels > HALF)
    listed = ", ".join(f"{level:g}" for level in found[:8]) + (", ..." if len(found) > 8 else "")
    raise RejectedFileError(
        f"unclear mask: its levels are {listed}; use 0 and 255, or 0 and class numbers up to {LARGEST_CLASS}"
    )


def distinct_levels(levels: NDArray[Any]) -> NDArray[Any]:
    """The different levels of a mask, sorted; for 8 bits, counting is much faster than `np.unique`."""
    if levels.dtype != np.uint8:
        return np.unique(levels)
    return np.flatnonzero(np.bincount(levels.reshape(-1), minlength=256))


def has_flat_area(levels: NDArray[Any], lowest: float) -> bool:
    """Whether 3x3 pixels share a level from `lowest` to half: the area of another class, no smooth edge."""
    flat = (levels >= lowest) & (levels <= HALF)
    if not flat.any():
        return False
    height, width = levels.shape
    framed = np.pad(levels, 1, mode="edge")
    for row in range(3):
        for column in range(3):
            flat &= framed[row : row + height, column : column + width] == levels
    return bool(flat.any())


def open_checked(path: Path) -> Image.Image:
    """Open and fully decode one image file, after checking its header.

    Raises:
        RejectedFileError: see the module's rules.
    """
    try:
        if path.stat().st_size == 0:
            raise RejectedFileError("empty file")
        # Not by name: Pillow would map the file into memory. A TIFF that it turns would then have wrong rows,
        # and a file that is cut short meanwhile would end the process.
        with path.open("rb") as stream:
            with warnings.catch_warnings():
                # Pillow only warns, at half its own limit; `check_header` is stricter and raises.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(stream, formats=FORMATS)
            with image:
                check_header(image)
                image.load()
                check_range(image)
                return image.copy()
    except RejectedFileError:
        raise
    except Image.DecompressionBombError as error:
        raise RejectedFileError(f"more than {MAX_PIXELS} pixels: scale it down") from error
    except Exception as error:  # decoders raise all kinds of exceptions on broken bytes
        reason = str(error).replace(str(path), path.name)
        raise RejectedFileError(f"unreadable image: {printable(reason) or type(error).__name__}") from error


def check_header(image: Image.Image) -> None:
    """Raise `RejectedFileError` if the header shows an unusable image; decodes no pixels."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RejectedFileError(f"{width}x{height} is more than {MAX_PIXELS} pixels: scale it down")
    if min(width, height) < MIN_SIDE:
        raise RejectedFileError(f"{width}x{height} is smaller than {MIN_SIDE}x{MIN_SIDE}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RejectedFileError(
            f"{width}x{height} is a strip, which resizing to a square would squash: cut it into tiles at most"
            f" {MAX_ASPECT} times as long as wide"
        )
    if image.format not in READ_FORMATS:
        raise RejectedFileError(f"{image.format} image: save it as PNG")
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise RejectedFileError(f"file of {pages} pages or frames: save each as a file of its own")
    if image.mode not in SHALLOW_MODES | DEEP_MODES:
        raise RejectedFileError(f"mode {image.mode}: save it as grey or RGB")
    if image.mode not in DEEP_MODES and has_deep_channels(image):
        raise DeepColourError("16-bit colour: save it as TIFF, as 16-bit grey or as 8-bit colour")
    if image.mode in DEEP_MODES and tiff_tag(image, PHOTOMETRIC) == 0:
        raise RejectedFileError("more than 8 bits per pixel with white as zero: save it with black as zero")


def check_range(image: Image.Image) -> None:
    """Raise `RejectedFileError` if a decoded TIFF's levels wrapped around: Pillow knows one sign a depth."""
    if (bits := tiff_tag(image, BITS_PER_SAMPLE)) is None:
        return
    sign = (tiff_tag(image, SAMPLE_FORMAT) or (UNSIGNED,))[0]
    if sign == SIGNED and max(bits) == 8:
        raise RejectedFileError("signed 8-bit levels: save it as 8-bit grey without a sign")
    if sign == UNSIGNED and image.mode == "I" and np.asarray(image).min() < 0:
        raise RejectedFileError("32-bit levels above 2147483647: save it as 16-bit grey or as float")


def has_deep_channels(image: Image.Image) -> bool:
    """Whether Pillow would drop the low bytes of 16-bit channels without a word."""
    # In TIFF the tag counts: tiles of one channel do not show the depth
    bits = tiff_tag(image, BITS_PER_SAMPLE) or (8,)
    is_colour = image.mode in ("RGB", "RGBA")
    return (is_colour and max(bits) > 8) or any("16" in raw_mode(tile) for tile in getattr(image, "tile", []))


def raw_mode(tile: Any) -> str:
    """How a part of a file stores its pixels, such as `RGB;16B`; Pillow keeps it alone or before offsets."""
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def is_tiff(path: Path) -> bool:
    """Whether a file's first bytes are those of TIFF or BigTIFF, whatever its name."""
    with path.open("rb") as stream:
        return stream.read(4) in TIFF_MAGIC


def tiff_tag(image: Image.Image, tag: int) -> Any:
    """The value of a TIFF tag; None if there is none or the file is no TIFF."""
    return getattr(image, "tag_v2", {}).get(tag)
