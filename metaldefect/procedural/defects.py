"""Paint NEU-DET's six defect classes of hot-rolled strip on procedural metal, with exact masks.

Shapes and metal of each class follow its photographs in NEU-DET. A painter takes `(rng, surface)` and
returns the marked surface and its mask, `float32 [S, S]` and `bool [S, S]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from metaldefect.procedural.textures import (
    F32,
    REFERENCE_SIZE,
    Finish,
    Mask,
    Painter,
    blur,
    gaussian_field,
    grid,
    soft_step,
)


def paint_crazing(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint a net of fine dark cracks over most of the image, and a few spots where scale broke out."""
    size = len(surface)
    extent = gaussian_field(rng, size, 45, 28, 90)
    crazed = extent > np.quantile(extent, rng.uniform(0.1, 0.45))
    broken = gaussian_field(rng, size, 6) > -0.35
    tilt = rng.uniform(-20, 20)
    cracks = np.zeros_like(crazed)
    for along, across in ((11, 6), (8, 5)):
        cracks |= zero_contour(gaussian_field(rng, size, along, across, tilt), rng.uniform(0.6, 0.9))
    cracks &= broken & crazed
    depth = rng.uniform(58, 80)
    marked = surface - depth * np.minimum(1.0, 1.3 * blur(cracks.astype(np.float32), 0.55))
    breakouts = gaussian_field(rng, size, 3.5, 2.0, 90) - (3.1 - 0.35 * rng.random())
    spots = keep_islands(breakouts, 4)
    marked = marked - 70 * soft_step(spots, 0.12) * crazed
    return marked, surround(cracks | ((spots > 0) & crazed), radius=9, share=0.06)


def paint_inclusion(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint one to six dark slivers with long thin ends, in a line along the rolling direction."""
    size = len(surface)
    rows, columns = grid(size)
    if rng.random() < 0.12:  # in some photographs the strip lies sideways
        rows, columns = columns, rows
    lane, ragged = rng.uniform(30, 170), 0.30 * gaussian_field(rng, size, 5, 1.6, 90)
    level = np.full_like(surface, -10.0)
    for _ in range(int(rng.integers(1, 7))):
        length = rng.uniform(7, 34)
        width = max(2.6, length * rng.uniform(0.1, 0.24))
        column, row = lane + rng.normal(0, 9), rng.uniform(15, 185)
        bend = 0.12 * width * ((rows - row) / length) ** 2
        sliver = 1.0 - np.abs((columns - column - bend) / width) ** 1.5 - np.abs((rows - row) / length) ** 2
        level = np.maximum(level, sliver)
    level = level + ragged
    depth = rng.uniform(22, 48) * (1 + 0.12 * gaussian_field(rng, size, 8, 2, 90))
    return surface - depth * soft_step(level, 0.11), level > 0


def paint_patches(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint large dark stains with soft, ragged borders on a bright surface."""
    size = len(surface)
    level = gaussian_field(rng, size, 27, 16, 90 + rng.normal(0, 10))
    level = level + 0.14 * gaussian_field(rng, size, 4) + 0.05 * gaussian_field(rng, size, 1.2)
    level = keep_islands(level - np.quantile(level, rng.uniform(0.6, 0.86)), 60, margin=6)
    contrast = rng.uniform(1.15, 1.45)
    lit = surface.mean() + contrast * (surface - surface.mean()) + rng.uniform(10, 45)
    inside = (
        rng.uniform(0.3, 0.48) + 0.05 * gaussian_field(rng, size, 10) + 0.04 * gaussian_field(rng, size, 1.2)
    )
    return lit * (1 - soft_step(level, 0.09) * (1 - inside)), level > 0


def paint_pitted_surface(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint hundreds of small dark pits of varying density, sometimes with large dark blotches."""
    size = len(surface)
    scale = size / REFERENCE_SIZE
    density = np.clip(0.75 + 0.8 * gaussian_field(rng, size, 45, 22, 90), 0, None)
    share = rng.uniform(0.007, 0.018) / scale**2
    seeds = (rng.random((size, size), dtype=np.float32) < share * density).astype(np.float32)
    seeds *= rng.uniform(0.55, 1.5, (size, size)).astype(np.float32)
    radii = (1.5 * scale * rng.uniform(0.9, 1.3), 1.05 * scale)
    peak = 1.0 / (2 * np.pi * radii[0] * radii[1])
    pits = ndimage.gaussian_filter(seeds, radii, truncate=3.0) / np.float32(peak)
    coverage = soft_step(pits - 0.5, 0.1)
    marks = pits > 0.5
    if rng.random() < 0.4:
        corner = gaussian_field(rng, size, 16, 9, 90) - 2.0 + 0.12 * gaussian_field(rng, size, 2)
        coverage = np.maximum(coverage, 0.8 * soft_step(corner, 0.1))
        marks = marks | (corner > 0)
    return surface * (1 - rng.uniform(0.3, 0.42) * coverage), surround(marks, radius=6, share=0.06)


def paint_rolled_in_scale(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint clusters of short dark flakes, pressed in along the grain and lit on one edge."""
    size = len(surface)
    cluster = gaussian_field(rng, size, 28, 12, 90)
    field = gaussian_field(rng, size, 4.2, 1.7, rng.normal(-8, 6)) + 0.55 * np.minimum(
        cluster, np.float32(2.2)
    )
    level = keep_islands((field - np.quantile(field, rng.uniform(0.93, 0.965))).astype(np.float32), 5)
    flakes = soft_step(level, 0.12)
    shift = 1.6 * size / REFERENCE_SIZE
    lit_edge = np.clip(ndimage.shift(flakes, (shift, 0), order=1, mode="nearest") - flakes, 0, None)
    marked = surface - rng.uniform(50, 68) * flakes + rng.uniform(18, 34) * lit_edge
    return marked, surround(level > 0, radius=5, share=0.08)


def paint_scratches(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint bright straight scratches: broken hairlines, a broad polished band, or a slanting fan."""
    size = len(surface)
    kind = rng.choice(["hairlines", "band", "fan"], p=[0.45, 0.35, 0.2])
    column = rng.uniform(35, 165)
    lines = []
    if kind == "hairlines":
        for _ in range(int(rng.integers(1, 5))):
            lines.append(scored_line(rng, size, rng.uniform(20, 180), 0.0, rng.uniform(0.9, 2.0)))
    elif kind == "band":
        width = rng.uniform(4, 10)
        threads = 0.75 + 0.25 * np.clip(gaussian_field(rng, size, 80, 0.9, 90), -1.5, 1.2)
        crumbled = 0.85 + 0.15 * np.clip(gaussian_field(rng, size, 5, 1.2, 90), -2.0, 1.0)
        lines.append(
            scored_line(rng, size, column, rng.normal(0, 0.01), width, broken=False) * threads * crumbled
        )
        for side in (-1, 1):
            beside = column + side * rng.uniform(1.3, 2.2) * width
            lines.append(rng.uniform(0.5, 0.8) * scored_line(rng, size, beside, 0.0, 1.1))
    else:
        apex, lean = rng.uniform(0, 40), float(rng.choice([-1, 1])) * rng.uniform(0.1, 0.4)
        for spread in np.linspace(0.7, 1.3, int(rng.integers(2, 5))):
            lines.append(scored_line(rng, size, column, lean * spread, rng.uniform(1.2, 2.4), pivot=apex))
    coverage = np.max(lines, axis=0)
    return surface + rng.uniform(75, 140) * coverage, coverage > 0.12


def scored_line(
    rng: np.random.Generator,
    size: int,
    column: float,
    slope: float,
    width: float,
    *,
    pivot: float = 100.0,
    broken: bool = True,
) -> F32:
    """Coverage in [0, 1] of a line through `(pivot, column)` that shifts by `slope` columns per row.

    A `broken` line fades in and out and may be short; an unbroken one spans nearly the whole image.
    """
    rows, columns = grid(size)
    wander = 0.5 * gaussian_field(rng, size, 25)[:, :1] + 0.25 * gaussian_field(rng, size, 2)[:, :1]
    distance = np.abs(columns - column - slope * (rows - pivot) - wander)
    half_length = rng.uniform(35, 150) if broken else rng.uniform(90, 240)
    strength = soft_step(half_length - np.abs(rows - rng.uniform(60, 140)), 4.0)
    if broken:
        strength = strength * soft_step(gaussian_field(rng, size, 9)[:, :1] + 0.6, 0.25)
    return soft_step(width * (0.4 + 0.6 * strength) - distance, 0.45) * strength


def zero_contour(field: F32, width: float) -> Mask:
    """Mask of pixels within `width` reference pixels of the field's zero contour."""
    slope_rows, slope_columns = np.gradient(field)
    distance = np.abs(field) / (np.hypot(slope_rows, slope_columns) + 1e-6)
    return distance < width * len(field) / REFERENCE_SIZE


def keep_islands(level: F32, area: float, margin: float = 3.0) -> F32:
    """Keep only large islands of `level > 0` and their soft edges; elsewhere, return -10.

    Specks, and levels just below zero, would leave faint marks outside the mask.

    Args:
        area: smallest island to keep, in square reference pixels.
        margin: width of the soft edge around a kept island, in reference pixels.
    """
    scale = len(level) / REFERENCE_SIZE
    islands, _ = ndimage.label(level > 0)
    large = np.bincount(islands.ravel()) >= area * scale**2
    large[0] = False
    window = 2 * max(1, round(margin * scale)) + 1
    near = ndimage.maximum_filter(large[islands].astype(np.uint8), window) > 0
    kept = near & (large[islands] | (level <= 0))
    return np.where(kept, level, np.float32(-10.0)).astype(np.float32)


def surround(marks: Mask, radius: float, share: float) -> Mask:
    """The area that an annotator would outline: all marks, and pixels whose surroundings they fill.

    A pixel counts if marks cover more than `share` of its surroundings of about `radius` reference pixels.
    """
    window = 2 * round(radius * len(marks) / REFERENCE_SIZE) + 1
    nearby = ndimage.uniform_filter(marks.astype(np.float32), window, mode="nearest")
    return marks | (ndimage.uniform_filter(nearby, window, mode="nearest") > share)


@dataclass(frozen=True)
class DefectClass:
    """A defect class: the finish of its metal and the function that paints it."""

    finish: Finish
    paint: Painter


DEFECT_CLASSES: dict[str, DefectClass] = {
    "crazing": DefectClass("rough", paint_crazing),
    "inclusion": DefectClass("smooth", paint_inclusion),
    "patches": DefectClass("rough", paint_patches),
    "pitted_surface": DefectClass("bright", paint_pitted_surface),
    "rolled-in_scale": DefectClass("grained", paint_rolled_in_scale),
    "scratches": DefectClass("smooth", paint_scratches),
}
