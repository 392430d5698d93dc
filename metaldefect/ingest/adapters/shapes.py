"""Turn the shapes of COCO annotations, polygons and run lengths, into masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon as draw_polygon

from metaldefect.errors import RejectedFileError
from metaldefect.ingest.adapters.records import RunLengths

Size = tuple[int, int]  # height and width
TOLERANCE = 1.0  # pixels that a polygon or box may reach beyond its image: tools round differently


def runs_of(mask: NDArray[np.bool_]) -> RunLengths:
    """Encode a mask `bool [H, W]`."""
    flat = np.concatenate([[False], mask.T.reshape(-1), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return RunLengths(tuple((start + 1, end - start) for start, end in pairs), (mask.shape[0], mask.shape[1]))


def fill_polygon(corners: Sequence[float], size: Size) -> NDArray[np.bool_]:
    """The pixels whose centre lies inside a polygon, `bool [H, W]`.

    Args:
        corners: x and y in turn, in pixels from the image's corner.
        size: height and width of the image.

    Raises:
        RejectedFileError: fewer than three corners, an odd count, or a corner outside the image.
    """
    if len(corners) < 6 or len(corners) % 2:
        raise RejectedFileError(f"polygon of {len(corners)} numbers: x and y of three corners are needed")
    x, y = np.array(corners[::2], np.float64), np.array(corners[1::2], np.float64)
    check_inside(float(x.min()), float(y.min()), float(x.max()), float(y.max()), size)
    mask = np.zeros(size, bool)
    mask[draw_polygon(y - 0.5, x - 0.5, size)] = True
    return mask


def check_inside(left: float, top: float, right: float, bottom: float, size: Size) -> None:
    """Raise `RejectedFileError` for a shape beyond its image, or with coordinates that are no numbers."""
    height, width = size
    inside = min(left, top) >= -TOLERANCE and right <= width + TOLERANCE and bottom <= height + TOLERANCE
    if not inside:  # also for NaN
        raise RejectedFileError(
            f"shape from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) leaves its image of {width}x{height}"
        )


def fill_runs(counts: Sequence[int] | str, size: Size) -> NDArray[np.bool_]:
    """The mask of COCO run lengths, plain or compressed, `bool [H, W]`.

    Raises:
        RejectedFileError: the counts are broken, or do not cover the image exactly.
    """
    numbers = decompress(counts) if isinstance(counts, str) else list(counts)
    if any(number < 0 for number in numbers) or sum(numbers) != size[0] * size[1]:
        raise RejectedFileError(f"run lengths that do not fill an image of {size[1]}x{size[0]} pixels")
    values = np.arange(len(numbers)) % 2 == 1  # runs of background and defect in turn
    return np.repeat(values, numbers).reshape(size[1], size[0]).T


def decompress(text: str) -> list[int]:
    """Decode compressed counts: five bits per character, from the third on as differences.

    Source: `rleFrString` in the COCO API (common/maskApi.c).

    Raises:
        RejectedFileError: the text ends inside a number, or holds other characters.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise RejectedFileError("compressed run lengths with unknown characters")
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    if shift:
        raise RejectedFileError("compressed run lengths that end inside a number")
    return counts
