"""Read, resize and write images in one place, so that every stage sees the same pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.image_files import Levels, read_pixels

if TYPE_CHECKING:
    import torch

# Functions import torch themselves: data work runs in many processes, and torch costs each one 400 MB

U8 = NDArray[np.uint8]


class UnreadableImageError(UserError):
    """An image that cannot be decoded; the message names the file and the reason."""


def read_grey(
    path: Path | str, size: int | tuple[int, int] | None = None, levels: Levels | None = None
) -> U8:
    """Read an image as grey levels, `uint8 [H, W]`, by the rules of `metaldefect.image_files`.

    Args:
        path: image file.
        size: side of the square, or `(height, width)`, to resize to (antialiased bilinear).
        levels: how to read images with more than 8 bits per pixel; None refuses them.

    Raises:
        UnreadableImageError: the file cannot be decoded, or the rules refuse it.
    """
    return resized(read_file(path, colour=False, levels=levels), size)


def read_rgb(path: Path | str, size: int | tuple[int, int] | None = None) -> U8:
    """Read an image as colour, `uint8 [H, W, 3]`; arguments and errors as for `read_grey`."""
    return resized(read_file(path, colour=True, levels=None), size)


def read_file(path: Path | str, *, colour: bool, levels: Levels | None) -> U8:
    """`read_pixels`, with an error that names the file."""
    try:
        return read_pixels(path, colour=colour, levels=levels)
    except RejectedFileError as error:
        raise UnreadableImageError(f"{printable(str(path))}: {error}") from error
    except OSError as error:
        raise UnreadableImageError(f"{printable(str(path))}: {error.strerror}") from error


def resized(image: U8, size: int | tuple[int, int] | None) -> U8:
    """`resize`, unless `size` is None."""
    return image if size is None else resize(image, size)


def resize(image: U8, size: int | tuple[int, int], *, nearest: bool = False) -> U8:
    """Resize `uint8 [H, W]` or `[H, W, 3]` to a square side or `(height, width)`; `nearest` for masks."""
    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[:2] == (height, width):
        return image
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def stack_resized(images: Iterable[U8], size: int) -> U8:
    """Stack images of any size into one array `uint8 [N, size, size]`; N may be 0."""
    resized = [resize(image, size) for image in images]
    return np.stack(resized) if resized else np.empty((0, size, size), np.uint8)


def write_png(path: Path | str, image: U8, level: int = 1) -> None:
    """Write `uint8 [H, W]` or `[H, W, 3]` as 8-bit PNG; `level` is zlib's, 0 (fast) to 9 (small)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG", compress_level=level)


def to_tanh_range(images: U8) -> torch.Tensor:
    """Turn grey `uint8 [N, H, W]` into the tokenizer's input, `float32 [N, 3, H, W]` in [-1, 1]."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1.0)
    return tensor.unsqueeze(1).expand(-1, 3, -1, -1)


def grey_levels(images: torch.Tensor) -> NDArray[np.float32]:
    """Turn the tokenizer's output `float [N, 3, H, W]` in [-1, 1] into grey levels (channel mean).

    Returns `float32 [N, H, W]`, neither rounded nor clipped.
    """
    return images.float().mean(dim=1).add(1.0).mul(127.5).cpu().numpy()


def to_u8(levels: NDArray[np.float32]) -> U8:
    """Round and clip grey levels to `uint8`."""
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def from_tanh_range(images: torch.Tensor) -> U8:
    """Turn the tokenizer's output `float [N, 3, H, W]` in [-1, 1] into grey `uint8 [N, H, W]`."""
    return to_u8(grey_levels(images))


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_imagenet_range(images: U8) -> torch.Tensor:
    """Turn grey `uint8 [N, H, W]` into the detector's ImageNet-normalised input, `float32 [N, 3, H, W]`."""
    import torch

    unit = torch.from_numpy(np.ascontiguousarray(images)).float().div_(255.0)[:, None]
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return (unit - mean) / std
