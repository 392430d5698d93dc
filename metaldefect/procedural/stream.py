"""Procedural metal that never repeats, for training base models: every class, finish, scale and light."""

from __future__ import annotations

import numpy as np

from metaldefect.images import resize
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.images import (
    generate_defect_image,
    generate_normal_image,
    generate_plate_image,
    keyed_generator,
)
from metaldefect.procedural.textures import U8

NORMAL = "normal"
LABELS = (*DEFECT_CLASSES, NORMAL)
# X-SDD's names for the classes that merge with NEU-DET's, and the share of their images in its look
PLATES = {
    "patches": "iron sheet ash",
    "rolled-in_scale": "oxide scale of plate system",
    "scratches": "surface scratch",
}
PLATE_SHARE = 0.25
# Sides at which datasets publish their images; others in between are as frequent as each of them
NATIVE_SIDES = (128, 200, 256)


def draw_varied(seed: int, number: int, size: int) -> tuple[U8, str]:
    """Image `number` of the stream `seed`, `uint8 [size, size]`, and its label, one of `LABELS`."""
    rng = keyed_generator(seed, "varied", number)
    label = LABELS[int(rng.integers(len(LABELS)))]
    if label in PLATES and rng.random() < PLATE_SHARE:
        image = generate_plate_image(PLATES[label], rng, NATIVE_SIDES[0])[0]
    else:
        sides = (*NATIVE_SIDES[1:], int(rng.integers(NATIVE_SIDES[0], NATIVE_SIDES[-1] + 1)))
        side = int(rng.choice(sides))
        defective = label != NORMAL
        image = generate_defect_image(label, rng, side)[0] if defective else generate_normal_image(rng, side)
    return turned(relit(resize(image, size), rng), rng), label


def relit(image: U8, rng: np.random.Generator) -> U8:
    """Change contrast about the mean by up to 15 %, and brightness by up to 15 grey levels."""
    levels = image.astype(np.float32)
    levels = (levels - levels.mean()) * rng.uniform(0.85, 1.15) + levels.mean() + rng.uniform(-15, 15)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def turned(image: U8, rng: np.random.Generator) -> U8:
    """One of the eight symmetries of the square."""
    turns, flip = divmod(int(rng.integers(8)), 2)
    image = np.rot90(image, turns)
    return np.ascontiguousarray(image[:, ::-1] if flip else image)
