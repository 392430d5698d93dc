"""Defects painted onto normal images: something to find where no real defect may be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaldefect.images import ImageSize, resize
from metaldefect.inspection.provider import InspectionImage
from metaldefect.procedural.images import keyed_generator
from metaldefect.synthesis.change import apply_change
from metaldefect.synthesis.photographs import as_photograph
from metaldefect.synthesis.placement import Spot
from metaldefect.synthesis.procedural_insertion import PAINTERS, paint_defect

FEATHER = 3.0  # px
# Every second defect is faint: strong ones alone are soon all found, and then say nothing more.
STRENGTHS = (1.0, 0.5)
# On rough metal many are left out because nobody could see them; others take their place.
TRIES = 3


def paint_defects(
    normals: Sequence[InspectionImage], size: ImageSize, count: int, seed: int
) -> list[InspectionImage]:
    """Paint one procedural defect of each kind in turn onto normal images in turn.

    Defect k depends only on the seed, its image and k.

    Args:
        normals: where to paint.
        size: that images are resized to first, px.
        count: defects to paint; instead of those that nobody could see, up to twice as many more are tried.
        seed: of kind, place and shape.

    Returns:
        At most `count` images with masks, in order; none without normals.
    """
    kinds = list(PAINTERS)
    found: list[InspectionImage] = []
    for number in range(TRIES * count if len(normals) else 0):
        if len(found) == count:
            break
        item, kind = normals[number % len(normals)], kinds[number % len(kinds)]
        rng = keyed_generator(seed, "painted", item.scene, kind, number)
        photograph = as_photograph(resize(item.image, size))
        change = paint_defect(photograph, kind, Spot(np.zeros(photograph.shape, bool)), rng, FEATHER)
        if change is None:
            continue
        strength = STRENGTHS[number // len(kinds) % len(STRENGTHS)]
        applied = apply_change(photograph, change._replace(added=change.added * strength), FEATHER)
        if applied.visible:
            pixels = applied.photograph.pixels.astype(np.uint8, copy=False)
            found.append(InspectionImage(pixels, applied.mask, kind, f"{kind}/{number:04d}", item.scene))
    return found
