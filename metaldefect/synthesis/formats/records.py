"""What every format needs to know about an image and its defects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

from metaldefect.config import Config
from metaldefect.synthesis.inpainting import Mask

TOLERANCE = 0.5  # pixels that a polygon may deviate from its mask's border
FINER = 3  # outlines are traced on a finer grid, because tracing cuts the corners of pixels

Polygon = NDArray[np.float64]


class DefectRecord(Config):
    """One defect of an image.

    Attributes:
        label: its class.
        box: x, y of the top left corner, width and height, in pixels from 0.
        area: number of pixels of its mask.
        runs: its mask as lengths of runs of 0 and 1 in turn, column by column (COCO's uncompressed code).
    """

    label: str
    box: tuple[int, int, int, int]
    area: int
    runs: tuple[int, ...]


class ImageRecord(Config):
    """An image of a written dataset.

    `image` and `mask` are paths inside it. `channels` counts those of its file with alpha, 1 to 4. `split` is
    `train` or `val`.
    """

    image: str
    mask: str
    width: int
    height: int
    channels: int
    split: str
    defects: tuple[DefectRecord, ...]


def record_defect(label: str, mask: Mask) -> DefectRecord:
    """Describe a defect by its mask, `bool [H, W]`, not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (
        int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)
    )  # fmt: skip
    return DefectRecord(label=label, box=box, area=int(np.count_nonzero(mask)), runs=tuple(runs_of(mask)))


def runs_of(mask: Mask) -> list[int]:
    """Lengths of the runs of a mask read column by column, beginning with those of 0 (maybe none)."""
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return [mask.size]
    flat = mask[:, columns[0] : columns[-1] + 1].ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]])))
    ends = np.concatenate([[0], changes + mask.shape[0] * int(columns[0]), [mask.size]])
    lengths = np.diff(ends)
    return [int(length) for length in (lengths if lengths[-1] else lengths[:-1])]


def mask_of(runs: Sequence[int], height: int, width: int) -> Mask:
    """The mask, `bool [height, width]`, that `runs_of` described."""
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def polygons_of(mask: Mask) -> Iterator[Polygon]:
    """Outlines of a mask's connected parts, `[points, 2]` as (x, y) in pixels; holes are filled.

    The corner of the image is (0, 0), so the middle of its first pixel is (0.5, 0.5).
    """
    parts, count = ndimage.label(mask, np.ones((3, 3), int))
    for number, window in enumerate(ndimage.find_objects(parts, count), start=1):
        part = ndimage.binary_fill_holes(parts[window] == number)
        fine = np.pad(part.repeat(FINER, axis=0).repeat(FINER, axis=1).astype(float), 1)
        outline = max(find_contours(fine, 0.5, fully_connected="high"), key=len)
        corners = approximate_polygon(outline, FINER * TOLERANCE)[:-1]
        yield (corners[:, ::-1] - 0.5) / FINER + (window[1].start, window[0].start)


def classes_of(images: Iterable[ImageRecord]) -> list[str]:
    """Names of all classes, sorted."""
    return sorted({defect.label for image in images for defect in image.defects})
