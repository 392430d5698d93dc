"""Small pictures of a dataset's images, with their defects outlined: they show whether masks fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.ndimage import binary_dilation

from metaldefect.image_files import U8, Levels
from metaldefect.images import resize
from metaldefect.ingest.adapters import Box, RawSample
from metaldefect.ingest.reading import read_image, read_known_mask

SIDE = 128
COUNT = 7  # per class: one row of the page
OUTLINE = (255, 64, 32)


def thumbnails_of(samples: Iterable[RawSample], levels: Levels | None) -> dict[str, list[U8]]:
    """The first images of each label, `uint8 [h, w, 3]`.

    Reads them again, which is cheaper than to scale all images of a dataset in case they are shown.
    """
    chosen: dict[str, list[RawSample]] = {}
    for raw in samples:
        of_label = chosen.setdefault(raw.source_label, [])
        if len(of_label) < COUNT:
            of_label.append(raw)
    return {label: [thumbnail(raw, levels) for raw in raws] for label, raws in chosen.items()}


def thumbnail(raw: RawSample, levels: Levels | None) -> U8:
    """An image whose longer side has `SIDE` pixels, with its mask outlined, or its boxes if it has none."""
    image = read_image(raw, levels, colour=True)
    size = (image.shape[0], image.shape[1])
    mask = read_known_mask(raw, size)
    scale = SIDE / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    small = resize(image, (height, width)).copy()
    if mask is None:
        mask = fill_boxes(raw.boxes, size)
    # Interpolation keeps a trace of defects thinner than a pixel
    inside = resize(mask, (height, width)) > 0
    small[binary_dilation(inside) & ~inside] = OUTLINE
    return small


def fill_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> U8:
    """Boxes as a mask of `size` (height, width), `uint8 [H, W]` of {0, 255}."""
    mask = np.zeros(size, np.uint8)
    for box in boxes:
        mask[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = 255
    return mask
