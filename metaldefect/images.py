"""Read, resize and write images in one place, so that every stage sees the same pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.image_files import Levels, read_pixels

if TYPE_CHECKING:
    import torch

# Functions import torch themselves: data work runs in many processes, and torch costs each one 400 MB

U8 = NDArray[np.uint8]
ImageSize = int | tuple[int, int]  # the side of a square, or height and width, px
Channels = Literal[1, 3]  # grey or colour
Dtype = TypeVar("Dtype", bound=np.generic)
THUMBNAIL = 64  # px; averages the noise of camera and JPEG away
COLOURED_LEVELS = 6  # between a pixel's channels, of 255
COLOURED_SHARE = 0.01  # of the pixels of a coloured image


class UnreadableImageError(UserError):
    """An image that cannot be decoded; the message names the file and the reason."""


def read_grey(path: Path | str, size: ImageSize | None = None, levels: Levels | None = None) -> U8:
    """Read an image as grey levels, `uint8 [H, W]`, by the rules of `metaldefect.image_files`.

    Args:
        path: image file.
        size: side of the square, or `(height, width)`, to resize to (antialiased bilinear).
        levels: how to read images with more than 8 bits per pixel; None refuses them.

    Raises:
        UnreadableImageError: the file cannot be decoded, or the rules refuse it.
    """
    return resized(read_file(path, colour=False, levels=levels), size)


def read_rgb(path: Path | str, size: ImageSize | None = None, levels: Levels | None = None) -> U8:
    """Read an image as colour, `uint8 [H, W, 3]`; arguments and errors as for `read_grey`."""
    return resized(read_file(path, colour=True, levels=levels), size)


def read_image(
    path: Path | str, channels: Channels, levels: Levels | None = None, size: ImageSize | None = None
) -> U8:
    """`read_grey` for one channel, `read_rgb` for three: how every door reads a file for a model."""
    return resized(read_file(path, colour=channels == 3, levels=levels), size)


def read_own(path: Path | str, size: ImageSize | None = None) -> U8:
    """Read one of the pipeline's own images with the channels that it shows, as for a figure.

    Returns:
        `uint8 [H, W, 3]`, or `[H, W]` where the channels are equal everywhere.
    """
    return resized(drop_equal_channels(read_rgb(path)), size)


def as_channels(image: U8, channels: Channels) -> U8:
    """An image with one or three channels, by the rule of `read_image`.

    Colour becomes grey by Rec. 601 (Pillow's `L`), grey becomes colour with three equal channels.

    Args:
        image: `uint8 [H, W]` or `[H, W, 3]`.
        channels: 1 or 3.
    """
    if (image.ndim == 3) == (channels == 3):
        return image
    return np.asarray(Image.fromarray(image).convert("RGB" if channels == 3 else "L"))


def channels_of(images: Any) -> Channels:
    """Channels of images `[N, H, W]` or `[N, H, W, 3]`, an array or a tensor."""
    return 1 if images.ndim == 3 else 3


def grey_stack(images: U8) -> U8:
    """Many images as grey, `uint8 [N, H, W]`, by the rule of `as_channels`; grey ones as they are."""
    return images if images.ndim == 3 else np.stack([as_channels(image, 1) for image in images])


def drop_equal_channels(image: U8) -> U8:
    """An image `uint8 [H, W, 3]`; as grey `[H, W]` if its channels are equal everywhere."""
    if (image[..., :1] != image[..., 1:]).any():
        return image
    return np.ascontiguousarray(image[..., 0])


def is_coloured(image: U8) -> bool:
    """Whether the channels of `uint8 [H, W, 3]` differ by more than noise."""
    small = resize(image, THUMBNAIL).astype(np.int16)
    spread = small.max(axis=2) - small.min(axis=2)
    return bool((spread >= COLOURED_LEVELS).mean() >= COLOURED_SHARE)


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Both sides of a size."""
    return (size, size) if isinstance(size, int) else size


def read_file(path: Path | str, *, colour: bool, levels: Levels | None) -> U8:
    """`read_pixels`, with an error that names the file."""
    try:
        return read_pixels(path, colour=colour, levels=levels)
    except RejectedFileError as error:
        raise UnreadableImageError(f"{printable(str(path))}: {error}") from error
    except OSError as error:
        raise UnreadableImageError(f"{printable(str(path))}: {error.strerror}") from error


def middle(image: NDArray[Dtype], shape: tuple[int, int]) -> NDArray[Dtype]:
    """The middle of an image that is at least as large, `[*shape, ...]`."""
    top, left = (image.shape[0] - shape[0]) // 2, (image.shape[1] - shape[1]) // 2
    return image[top : top + shape[0], left : left + shape[1]]


def resized(image: U8, size: ImageSize | None) -> U8:
    """`resize`, unless `size` is None."""
    return image if size is None else resize(image, size)


def resize(image: U8, size: ImageSize, *, nearest: bool = False) -> U8:
    """Resize `uint8 [H, W]` or `[H, W, 3]` to a square side or `(height, width)`; `nearest` for masks."""
    height, width = height_and_width(size)
    if image.shape[:2] == (height, width):
        return image
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def stack_resized(images: Iterable[U8], size: ImageSize) -> U8:
    """Stack images of any size into one array `uint8 [N, H, W]` or `[N, H, W, 3]`; N may be 0."""
    resized = [resize(image, size) for image in images]
    return np.stack(resized) if resized else np.empty((0, *height_and_width(size)), np.uint8)


def write_png(path: Path | str, image: U8, level: int = 1) -> None:
    """Write `uint8 [H, W]` or `[H, W, 3]` as 8-bit PNG; `level` is zlib's, 0 (fast) to 9 (small)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG", compress_level=level)


def to_tanh_range(images: U8) -> torch.Tensor:
    """Turn `uint8 [N, H, W]` or `[N, H, W, 3]` into the tokenizer's input, `float32 [N, 3, H, W]` in [-1, 1].

    A grey image gives three equal channels.
    """
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1.0)
    return tensor.unsqueeze(1).expand(-1, 3, -1, -1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


def decoded_levels(images: torch.Tensor, channels: Channels) -> NDArray[np.float32]:
    """Turn the tokenizer's output `float [N, 3, H, W]` in [-1, 1] into levels of [0, 255].

    Returns `float32 [N, H, W]`, the mean of the channels, or with three channels `[N, H, W, 3]`; neither
    rounded nor clipped.
    """
    pixels = images.float().mean(dim=1) if channels == 1 else images.float().permute(0, 2, 3, 1)
    return pixels.add(1.0).mul(127.5).cpu().numpy()


def to_u8(levels: NDArray[np.float32]) -> U8:
    """Round and clip levels to `uint8`."""
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def from_tanh_range(images: torch.Tensor, channels: Channels = 1) -> U8:
    """`decoded_levels` as `uint8 [N, H, W]` or `[N, H, W, 3]`."""
    return to_u8(decoded_levels(images, channels))


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_unit_range(images: U8) -> torch.Tensor:
    """Turn grey `uint8 [N, H, W]` or colour `[N, H, W, 3]` into `float32 [N, 3, H, W]` in [0, 1]."""
    import torch

    writable = np.require(images, requirements=["C", "W"])  # torch warns of others
    unit = torch.from_numpy(writable).float().div_(255.0)
    return unit[:, None].expand(-1, 3, -1, -1) if unit.ndim == 3 else unit.permute(0, 3, 1, 2)


def to_imagenet_range(images: U8) -> torch.Tensor:
    """Turn `uint8 [N, H, W]` or `[N, H, W, 3]` into the detector's input, `float32 [N, 3, H, W]`.

    Normalised with ImageNet's mean and deviation; a grey image gives three equal channels before that.
    """
    import torch

    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return (to_unit_range(images) - mean) / std
