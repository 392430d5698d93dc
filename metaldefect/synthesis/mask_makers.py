"""Masks for new defects: transformed real ones, strokes and blobs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from metaldefect.images import resize

Mask = NDArray[np.bool_]

LARGEST_SHARE = 0.25
SMALLEST_PIXELS = 40


def stroke(rng: np.random.Generator, size: int) -> Mask:
    """A bent line, 2 to 5 % of the side wide."""
    length = rng.uniform(0.3, 0.8) * size
    angle = rng.uniform(0, np.pi)
    centre = rng.uniform(0.3, 0.7, 2) * size
    along = np.linspace(-0.5, 0.5, 4 * size)
    bend = rng.normal(0, 0.06) * size * np.sin(np.pi * (along + 0.5))
    x = centre[0] + along * length * np.cos(angle) - bend * np.sin(angle)
    y = centre[1] + along * length * np.sin(angle) + bend * np.cos(angle)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    line = np.zeros((size, size), bool)
    line[y[inside].astype(int), x[inside].astype(int)] = True
    return ndimage.distance_transform_edt(~line) <= rng.uniform(0.01, 0.025) * size


def blob(rng: np.random.Generator, size: int) -> Mask:
    """A roundish region with a wavy border, radius 8 to 20 % of the side."""
    radius = rng.uniform(0.08, 0.2) * size
    centre = rng.uniform(0.25, 0.75, 2) * size
    rows, columns = np.mgrid[:size, :size]
    angle = np.arctan2(rows - centre[0], columns - centre[1])
    wave = sum(rng.normal(0, 0.12) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return distance <= radius * (1.0 + wave)


def cut_sides(mask: Mask) -> tuple[bool, bool, bool, bool]:
    """Whether a mask reaches the top, bottom, left and right border of its photograph."""
    edges = (mask[:2], mask[-2:], mask[:, :2], mask[:, -2:])
    return bool(edges[0].any()), bool(edges[1].any()), bool(edges[2].any()), bool(edges[3].any())


def moved(mask: Mask, rng: np.random.Generator, size: int) -> Mask:
    """A real defect's mask after one of the eight symmetries of the square, resized, at a random place.

    A side that its photograph's border cuts off lies at the border again, and what runs through a photograph
    does so here: elsewhere there would be a straight edge that no defect has.
    """
    turned = np.rot90(mask, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[::-1]
    rows, columns = np.where(turned)
    crop = turned[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    at_top, at_bottom, at_left, at_right = cut_sides(turned)
    through = (at_top and at_bottom, at_left and at_right)
    scale = rng.uniform(0.7, 1.1) * size / mask.shape[0]
    scale = size / mask.shape[0] if any(through) else min(scale, 0.9 * size / max(crop.shape))
    height, width = (
        size if whole else max(3, round(side * scale))
        for side, whole in zip(crop.shape, through, strict=True)
    )
    small = resize(crop.astype(np.uint8) * 255, (height, width)) > 127
    placed = np.zeros((size, size), bool)
    top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
    top = 0 if at_top else size - height if at_bottom else top
    left = 0 if at_left else size - width if at_right else left
    placed[top : top + height, left : left + width] = small
    return placed


def make_mask(rng: np.random.Generator, size: int, real_masks: Sequence[Mask]) -> Mask:
    """A mask `bool [size, size]` for a new defect: a real one of the class if there are any.

    Uses a real mask four times in five, else a stroke or a blob. Redraws masks smaller than 40 pixels or
    larger than a quarter of the image.
    """
    for _ in range(100):
        if real_masks and rng.random() < 0.8:
            mask = moved(real_masks[int(rng.integers(len(real_masks)))], rng, size)
        else:
            mask = (stroke if rng.random() < 0.5 else blob)(rng, size)
        if SMALLEST_PIXELS <= mask.sum() <= LARGEST_SHARE * mask.size:
            return mask
    return blob(rng, size)
