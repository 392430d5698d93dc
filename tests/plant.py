"""Draws a plant's own image folder: a folder per class, some masks, mixed formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaldefect.procedural.images import generate_normal_image


def metal(key: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Normal metal `uint8 [H, W]`; every key is another piece."""
    square = generate_normal_image(np.random.default_rng(key), max(shape))
    return np.ascontiguousarray(square[: shape[0], : shape[1]])


def defective(key: int, label: str, shape: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Metal with a dark dent or a bright scratch, and its mask {0, 255}."""
    image, rng = metal(key, shape).astype(np.int16), np.random.default_rng(key + 1)
    mask = np.zeros(shape, bool)
    top, left = int(rng.integers(8, shape[0] - 40)), int(rng.integers(8, shape[1] - 40))
    if label == "dent":
        mask[top : top + 24, left : left + 28] = True
    else:
        mask[top : top + 32, left : left + 4] = True
    image[mask] += -80 if label == "dent" else 90
    return np.clip(image, 0, 255).astype(np.uint8), mask.astype(np.uint8) * 255


def save(path: Path, image: NDArray[np.uint8], kind: int) -> None:
    """Write a grey image as one of four kinds of file: grey PNG, colour JPEG, grey BMP, 16-bit TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == 1:
        Image.fromarray(image).convert("RGB").save(path.with_suffix(".jpg"), quality=95)
    elif kind == 2:
        Image.fromarray(image).save(path.with_suffix(".BMP"))
    elif kind == 3:
        Image.fromarray(image.astype(np.uint16) * 257).save(path.with_suffix(".tif"))
    else:
        Image.fromarray(image).save(path.with_suffix(".png"))


def write_plant(root: Path, defects: int = 30, good: int = 60, kinds: int = 4) -> None:
    """Write `good/`, `dent/` and `scratch/`; every other defect has a mask, beside it or below `masks/`.

    Args:
        root: folder to write to.
        defects: images per class of defects; 0: no such folder.
        good: images without a defect.
        kinds: how many of the kinds of file of `save` to use.
    """
    for k in range(good):
        save(root / f"good/g{k}.png", metal(k, (112, 144) if k % 3 else (128, 128)), k % kinds)
    for number, label in enumerate(("dent", "scratch") if defects else ()):
        for k in range(defects):
            image, mask = defective(1000 * (number + 1) + k, label, (112, 144) if k % 3 else (128, 128))
            save(root / f"{label}/{label}{k}.png", image, k % kinds)
            if k % 2 and label == "dent":
                save(root / f"{label}/{label}{k}_mask.png", mask, 0)
            elif k % 2:
                save(root / f"masks/{label}/{label}{k}.png", mask, 0)


def write_folders(
    root: Path, defects: int = 15, good: int = 60, shape: tuple[int, int] = (112, 144), unmasked: int = 0
) -> None:
    """Write `good/`, and `defects/` with `masks/` for the classes dent and scratch, for `metaldefect new`.

    Args:
        root: folder to write to.
        defects: images per class.
        good: images without a defect.
        shape: height and width of all images; files are of the four kinds of `save`.
        unmasked: how many images of each class have no mask.
    """
    for k in range(good):
        save(root / f"good/g{k}.png", metal(k, shape), k % 4)
    for number, label in enumerate(("dent", "scratch")):
        for k in range(defects):
            image, mask = defective(1000 * (number + 1) + k, label, shape)
            save(root / f"defects/{label}/{label}{k}.png", image, k % 4)
            if k >= unmasked:
                save(root / f"masks/{label}/{label}{k}.png", mask, 0)
