"""Draw X-SDD's look: similar damage as another camera sees it, mid-grey and low in contrast.

The different look is deliberate: it exposes a classifier that recognises the source instead of the defect.
A painter takes `(rng, surface)` and returns the marked surface and its mask, as in `procedural.defects`.
"""

from __future__ import annotations

import numpy as np

from metaldefect.procedural.defects import keep_islands
from metaldefect.procedural.textures import (
    F32,
    Mask,
    Painter,
    blur,
    gaussian_field,
    grid,
    shading,
    soft_step,
)


def draw_plate(rng: np.random.Generator, size: int) -> F32:
    """Draw an even mid-grey plate with faint clouds and grain, `float32 [size, size]`."""
    surface = rng.uniform(127, 136) + shading(rng, size, rng.uniform(0, 4))
    surface = surface + rng.uniform(0.6, 1.8) * gaussian_field(rng, size, 12, 9)
    surface += rng.uniform(0.4, 1.4) * gaussian_field(rng, size, 40, 4, 90)
    return surface + rng.uniform(1.0, 2.0) * gaussian_field(rng, size, 1.0)


def paint_iron_sheet_ash(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint a small clot of dark ash with bright crumbs and a pale plume below it."""
    size = len(surface)
    rows, columns = grid(size)
    row, column, radius = rng.uniform(40, 165), rng.uniform(30, 170), rng.uniform(5, 13)
    ragged = 0.4 * gaussian_field(rng, size, 3)
    level = 1.0 - ((rows - row) / (0.7 * radius)) ** 2 - ((columns - column) / radius) ** 2 + ragged
    for _ in range(int(rng.integers(0, 4))):
        beside, below, crumb = (
            column + rng.normal(0, 1.6) * radius,
            row + rng.uniform(4, 22),
            rng.uniform(2, 3.5),
        )
        spot = 1.0 - ((rows - below) ** 2 + (columns - beside) ** 2) / crumb**2
        level = np.maximum(level, spot + 0.5 * ragged)
    ash = soft_step(level, 0.15)
    plume_width = radius + 0.35 * np.clip(rows - row, 0, None)
    plume = np.exp(-(((columns - column) / plume_width) ** 2) - np.clip(rows - row, 0, None) / 30) * (
        rows > row
    )
    crumbs = blur((gaussian_field(rng, size, 1.2) > 1.9).astype(np.float32), 0.5)
    near = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2.2 * radius) ** 2)
    marked = surface + 9 * plume + 45 * crumbs * near - rng.uniform(55, 85) * ash * (1 - 0.8 * crumbs)
    return marked.astype(np.float32), level > 0


def paint_plate_scale(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint one or two upright spindles of scale with ripples across them."""
    size = len(surface)
    rows, columns = grid(size)
    level = np.full_like(surface, -10.0)
    column = rng.uniform(30, 170)
    for _ in range(int(rng.integers(1, 3))):
        row, length, width = rng.uniform(20, 180), rng.uniform(28, 85), rng.uniform(6, 15)
        spindle = 1.0 - np.abs((columns - column) / width) ** 1.7 - ((rows - row) / length) ** 2
        level = np.maximum(level, spindle)
        column = column + float(rng.choice([-1, 1])) * rng.uniform(18, 30)
    level = level + 0.28 * gaussian_field(rng, size, 3, 1.5, 90)
    scale = soft_step(level, 0.12)
    ripples = gaussian_field(rng, size, 5, 1.6, rng.normal(0, 8))
    marked = surface - scale * (rng.uniform(12, 22) - rng.uniform(10, 17) * ripples)
    return marked, level > 0


def paint_surface_scratch(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint one to three thin dark lines down the whole image, with faint specks around them."""
    size = len(surface)
    rows, columns = grid(size)
    coverage = np.zeros_like(surface)
    column, slope = rng.uniform(25, 175), rng.normal(0, 0.01)
    for _ in range(int(rng.integers(1, 4))):
        wander = 0.3 * gaussian_field(rng, size, 20)[:, :1]
        distance = np.abs(columns - column - slope * (rows - 100) - wander)
        line = soft_step(rng.uniform(0.9, 1.8) - distance, 0.4)
        coverage = np.maximum(coverage, rng.uniform(0.6, 1.0) * line)
        column = (column + rng.uniform(5, 50)) % 180 + 10
    specks = soft_step(gaussian_field(rng, size, 4, 0.9, 90) - rng.uniform(2.0, 2.8), 0.2)
    return surface - 14 * specks - rng.uniform(35, 60) * coverage, coverage > 0.2


def paint_red_iron(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint flat, darker flames of red iron oxide along the rolling direction."""
    size = len(surface)
    level = gaussian_field(rng, size, 14, 5, 90) + 0.12 * gaussian_field(rng, size, 2.5, 1.2, 90)
    level = keep_islands(level - np.quantile(level, rng.uniform(0.82, 0.95)), 20)
    return surface - rng.uniform(20, 34) * soft_step(level, 0.08), level > 0


PLATE_CLASSES: dict[str, Painter] = {
    "iron sheet ash": paint_iron_sheet_ash,
    "oxide scale of plate system": paint_plate_scale,
    "surface scratch": paint_surface_scratch,
    "red iron": paint_red_iron,
}
