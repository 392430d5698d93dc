"""How a detector should look at a dataset's images: grey or in colour, and at which size."""

from __future__ import annotations

from metaldefect.efficientad.config import SMALLEST_SIDE
from metaldefect.images import Channels, ImageSize, is_coloured
from metaldefect.inspection.provider import InspectionImages

LOOKED_AT = 16  # images of the training split, evenly spread
SIDE = 256  # of the square that has as many pixels as the chosen size
MULTIPLE = 8
NEARLY_SQUARE = 1.2  # longer over shorter side
SAME_SHAPE = 1.1  # widest over narrowest ratio of a dataset whose images have one shape


def look_for_channels(images: InspectionImages) -> tuple[Channels, str]:
    """Three channels if at least half of the images are really coloured, else one; and why, in words.

    Args:
        images: the training images in colour, `uint8 [H, W, 3]`.
    """
    seen = evenly(images)
    coloured = sum(is_coloured(images[index].image) for index in seen)
    counted = f"{coloured} of {len(seen)} training images looked at are coloured"
    if 2 * coloured >= len(seen):
        return 3, f"channels: 3, {counted}; --channels 1 trains on grey"
    return 1, f"channels: 1, {counted}" + ("; --channels 3 keeps colours" if coloured else "")


def look_for_size(images: InspectionImages) -> tuple[ImageSize, str]:
    """A size in the images' shape with about 256 x 256 pixels, and why, in words.

    256 for images that are nearly square or have different shapes.
    """
    shapes = [images[index].image.shape[:2] for index in evenly(images)]
    ratios = sorted(width / height for height, width in shapes)
    ratio = ratios[len(ratios) // 2]
    if ratios[-1] > SAME_SHAPE * ratios[0] or max(ratio, 1 / ratio) < NEARLY_SQUARE:
        return SIDE, ""
    size = size_with_ratio(ratio)
    height, width = shapes[0]
    return size, f"image size: {size[0]}x{size[1]} keeps the shape of images of {height}x{width} px"


def size_with_ratio(ratio: float) -> tuple[int, int]:
    """Height and width with this ratio of width to height, about 256 x 256 pixels, no side too short.

    Example:
        >>> size_with_ratio(500 / 1250), size_with_ratio(8.0)
        ((408, 160), (128, 1024))
    """
    height, width = SIDE / ratio**0.5, SIDE * ratio**0.5
    enlarged = max(1.0, SMALLEST_SIDE / min(height, width))
    return multiple_of(enlarged * height), multiple_of(enlarged * width)


def multiple_of(pixels: float) -> int:
    """The nearest number of pixels that suits the networks' strides."""
    return round(pixels / MULTIPLE) * MULTIPLE


def evenly(images: InspectionImages) -> list[int]:
    """Indices of some images, evenly spread."""
    count = min(LOOKED_AT, len(images))
    return [index * len(images) // count for index in range(count)]
