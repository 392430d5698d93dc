"""Paint anomalies onto metal: scratches, contamination and misplaced objects.

Unlike the six defect classes, they occur on any finish, as an anomaly detector has to expect.
A painter takes `(rng, surface)` and returns the marked surface and its mask, as in `procedural.defects`.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from metaldefect.procedural.textures import (
    F32,
    REFERENCE_SIZE,
    Mask,
    Painter,
    gaussian_field,
    grid,
    soft_step,
)


def paint_scratch(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint a slightly curved scratch in any direction, brighter or darker than the metal."""
    size = len(surface)
    along, beside = turned_grid(rng, size)
    half_length, bend = rng.uniform(25, 75), rng.uniform(-0.004, 0.004)
    wander = 0.5 * gaussian_field(rng, size, 8)
    distance = np.abs(beside - bend * along**2 - wander)
    taper = np.clip(1.0 - (along / half_length) ** 2, 0, None) ** 0.35
    coverage = soft_step(rng.uniform(1.5, 3.0) * taper - distance, 0.45) * (taper > 0)
    return surface + away_from(surface, rng.uniform(70, 110), rng) * coverage, coverage > 0.2


def paint_contamination(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint a blot of oil or dust with splashes around it."""
    size = len(surface)
    along, beside = turned_grid(rng, size)
    ragged = 0.35 * gaussian_field(rng, size, 7) + 0.1 * gaussian_field(rng, size, 2)
    length = rng.uniform(10, 26)
    width = length * rng.uniform(0.5, 1.0)
    level = 1.0 - (along / length) ** 2 - (beside / width) ** 2 + ragged
    for _ in range(int(rng.integers(2, 8))):
        splash = length * rng.uniform(0.9, 2.0) * np.exp(2j * np.pi * rng.random())
        radius = rng.uniform(1.5, 4.0)
        drop = 1.0 - ((along - splash.real) ** 2 + (beside - splash.imag) ** 2) / radius**2
        level = np.maximum(level, drop)
    coverage = soft_step(level, 0.12)
    stain = away_from(surface, rng.uniform(60, 95), rng) + 6 * gaussian_field(rng, size, 3)
    return surface + stain * coverage, level > 0


def paint_misplaced_object(rng: np.random.Generator, surface: F32) -> tuple[F32, Mask]:
    """Paint a nut, a washer or a pin that lies on the sheet, lit from one side, with its shadow."""
    size = len(surface)
    along, beside = turned_grid(rng, size)
    radius = rng.uniform(12, 24)
    distance = np.hypot(along, beside)
    kind = rng.choice(["nut", "washer", "pin"])
    if kind == "nut":
        normals = np.deg2rad([0.0, 60.0, 120.0])
        hexagon = np.max([np.abs(along * np.cos(a) + beside * np.sin(a)) for a in normals], axis=0)
        level = np.minimum(radius - hexagon, distance - 0.55 * radius)
    elif kind == "washer":
        level = np.minimum(radius - distance, distance - rng.uniform(0.4, 0.6) * radius)
    else:
        shaft = 0.22 * radius - np.maximum(np.abs(beside), np.abs(along) - 1.3 * radius)
        head = np.minimum(0.5 * radius - np.abs(beside), 0.25 * radius - np.abs(along - 1.3 * radius))
        level = np.maximum(shaft, head)
    coverage = soft_step(level, 0.4)
    relief = np.clip(level / 3.0, -1, 1)
    light = np.gradient(relief, axis=0) + np.gradient(relief, axis=1)
    metal = rng.uniform(40, 80) if surface.mean() > 135 else rng.uniform(170, 215)
    body = metal + 70 * light * REFERENCE_SIZE / size + 3 * gaussian_field(rng, size, 1.0)
    shadow = ndimage.shift(coverage, 3.0 * size / REFERENCE_SIZE, order=1, mode="constant")
    shaded = surface * (1 - 0.45 * shadow)
    return shaded * (1 - coverage) + body * coverage, level > 0


def turned_grid(rng: np.random.Generator, size: int) -> tuple[F32, F32]:
    """Coordinates `float32 [S, S]` in reference pixels, along and across a random axis."""
    rows, columns = grid(size)
    rows, columns = rows - rng.uniform(45, 155), columns - rng.uniform(45, 155)
    angle = rng.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return columns * cosine + rows * sine, rows * cosine - columns * sine


def away_from(surface: F32, contrast: float, rng: np.random.Generator) -> float:
    """`contrast`, negative on bright and positive on dark metal so that it does not clip, else random."""
    level = float(surface.mean())
    if level > 150:
        return -contrast
    if level < 90:
        return contrast
    return float(rng.choice([-1.0, 1.0])) * contrast


ANOMALIES: dict[str, Painter] = {
    "scratch": paint_scratch,
    "contamination": paint_contamination,
    "misplaced_object": paint_misplaced_object,
}
