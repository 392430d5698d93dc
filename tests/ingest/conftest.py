"""Small datasets in their publishers' layouts, made of random textures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Texture = Callable[..., NDArray[np.uint8]]
Writer = Callable[..., Path]


@pytest.fixture(scope="session")
def texture() -> Texture:
    """texture(key, side): a blurred random image `uint8 [side, side]` that no two keys share."""

    def make(key: int, side: int = 64) -> NDArray[np.uint8]:
        noise = np.random.default_rng(key).normal(size=(side, side))
        smooth = gaussian_filter(noise, side / 20)
        return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def save() -> Writer:
    """save(path, array): write an image, folders included; the suffix decides the format."""

    def write(path: Path, image: NDArray[np.uint8], **options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, **options)
        return path

    return write


@pytest.fixture
def classes_folder(tmp_path: Path, texture: Texture, save: Writer) -> Path:
    """`<class>/<image>` with 8 images each of `pits` and `scratches`."""
    root = tmp_path / "raw" / "own"
    for c, label in enumerate(("pits", "scratches")):
        for k in range(8):
            save(root / label / f"{label}_{k}.png", texture(100 * c + k))
    return root


@pytest.fixture
def inspection_folder(tmp_path: Path, texture: Texture, save: Writer) -> Path:
    """MVTec AD layout: 12 train, 4 test normals, 3 defects with masks."""
    root = tmp_path / "raw" / "inspection"
    for k in range(12):
        save(root / "train/good" / f"{k:03d}.png", texture(1000 + k, 48))
    for k in range(4):
        save(root / "test/good" / f"{k:03d}.png", texture(1100 + k, 48))
    for k in range(3):
        save(root / "test/pits" / f"{k:03d}.png", texture(1200 + k, 48))
        mask = np.zeros((48, 48), np.uint8)
        mask[10:20, 5:9] = 255
        save(root / "ground_truth/pits" / f"{k:03d}_mask.png", mask)
    return root
