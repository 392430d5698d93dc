"""Procedural images of metal surfaces: a stand-in for real photographs that needs no download.

Every image is a pure function of its generator, and `keyed_generator` derives a generator from a name and
an index. Image k of a class is therefore the same whatever other images are drawn, and in any order.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import numpy as np

from metaldefect.errors import UserError
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.plates import PLATE_CLASSES, draw_plate
from metaldefect.procedural.textures import (
    F32,
    FINISHES,
    REFERENCE_SIZE,
    SMALLEST_SIZE,
    U8,
    Finish,
    Mask,
    Painter,
    draw_surface,
    to_grey,
)

T = TypeVar("T")

SMALLEST_DEFECT = 30.0  # square reference pixels; the detector's resolution would lose smaller ones


def keyed_generator(seed: int, *key: str | int) -> np.random.Generator:
    """Return a random generator that depends only on `seed` and the words and numbers of `key`."""
    name = "/".join(str(part) for part in key)
    return np.random.default_rng([seed, zlib.crc32(name.encode()), len(name)])


def generate_normal_image(
    seed_or_rng: int | np.random.Generator, size: int, finish: Finish | None = None
) -> U8:
    """Draw defect-free metal, `uint8 [size, size]`.

    Args:
        seed_or_rng: a seed, or the generator to draw from.
        size: side in pixels, at least 16.
        finish: one of `FINISHES`; None picks one at random.

    Raises:
        UserError: `size` is too small or `finish` is unknown.
    """
    rng = np.random.default_rng(seed_or_rng)
    check_size(size)
    return to_grey(draw_surface(finish or random_finish(rng), rng, size))


def generate_defect_image(label: str, rng: np.random.Generator, size: int) -> tuple[U8, Mask]:
    """Draw a defect of one of NEU-DET's six classes, on the metal typical of its class.

    Returns:
        Image `uint8 [size, size]` and mask `bool [size, size]`, True on the defect; never empty.
        For classes that are swarms of marks (crazing, pits, flakes), the mask is the area they cover.

    Raises:
        UserError: `label` is unknown, or `size` is too small.
    """
    chosen = lookup(DEFECT_CLASSES, label, "defect class")
    check_size(size)
    return paint(chosen.paint, rng, draw_surface(chosen.finish, rng, size))


def generate_plate_image(label: str, rng: np.random.Generator, size: int) -> tuple[U8, Mask]:
    """Draw a defect in X-SDD's look (mid-grey, low contrast); `label` is one of its folder names.

    Return values and errors as for `generate_defect_image`.
    """
    painter = lookup(PLATE_CLASSES, label, "X-SDD class")
    check_size(size)
    return paint(painter, rng, draw_plate(rng, size))


def generate_anomalous_image(
    kind: str, rng: np.random.Generator, size: int, finish: Finish | None = None
) -> tuple[U8, Mask]:
    """Draw metal with an anomaly: `scratch`, `contamination` or `misplaced_object`.

    Return values and errors as for `generate_defect_image`; `finish` as for `generate_normal_image`.
    """
    painter = lookup(ANOMALIES, kind, "kind of anomaly")
    check_size(size)
    return paint(painter, rng, draw_surface(finish or random_finish(rng), rng, size))


def paint_anomaly(kind: str, rng: np.random.Generator, image: U8) -> tuple[U8, Mask]:
    """Paint an anomaly onto a square image `uint8 [S, S]` of any metal; returns image and mask."""
    return paint(lookup(ANOMALIES, kind, "kind of anomaly"), rng, image.astype(np.float32))


def paint(painter: Painter, rng: np.random.Generator, surface: F32) -> tuple[U8, Mask]:
    """Paint until the defect is large enough: a few in a thousand land mostly outside the image."""
    smallest = SMALLEST_DEFECT * (len(surface) / REFERENCE_SIZE) ** 2
    while True:
        marked, mask = painter(rng, surface)
        if np.count_nonzero(mask) >= smallest:
            return to_grey(marked), mask


def random_finish(rng: np.random.Generator) -> Finish:
    """Pick one of the finishes, all equally likely."""
    return FINISHES[int(rng.integers(len(FINISHES)))]


def check_size(size: int) -> None:
    """Raise `UserError` if the image side is too small for the shapes."""
    if size < SMALLEST_SIZE:
        raise UserError(f"image size {size} is too small: at least {SMALLEST_SIZE} pixels are needed")


def lookup(table: dict[str, T], name: str, what: str) -> T:
    """Return the entry `name` of `table`; raise `UserError` with the known names if it is unknown."""
    if name not in table:
        raise UserError(f"unknown {what} {name!r}: choose one of {', '.join(table)}")
    return table[name]
