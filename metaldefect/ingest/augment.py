"""Augmentation: the eight symmetries of the square and, optionally, mild changes of light."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

from metaldefect.artifacts import replace_directory
from metaldefect.errors import UserError
from metaldefect.images import U8, Channels, as_channels, read_grey, read_image
from metaldefect.ingest.groups import SYMMETRIES, apply_symmetry, hash_pixels, perceptual_hash
from metaldefect.ingest.levels import read_dataset_levels, write_dataset_levels
from metaldefect.ingest.parallel import map_threads
from metaldefect.ingest.samples import TABLE_NAME, read_table, write_image_file, write_table

# Cameras that see the same defect differ by about this much in lighting; more would change the class.
BRIGHTNESS = (0.9, 1.1)
CONTRAST = (0.9, 1.1)


def augment(
    merged: Path,
    output: Path,
    partial: Path,
    png_level: int = 1,
    photometric: bool = False,
    seed: int = 0,
    channels: Channels = 1,
) -> pd.DataFrame:
    """Write all eight symmetries of every training image, with their masks.

    Writes `images/<label>/<stem>_<k>.png`, `masks/<label>/<stem>_<k>.png` if known, and `samples.parquet`
    with the column `symmetry` (k, see `apply_symmetry`), and copies `levels.json`. The same inputs
    give the same bytes.

    Args:
        merged: folder of the merged dataset.
        output: replaced as a whole at the end.
        partial: work folder, on the file system of `output`, which it finally becomes. Images that a killed
            run left there are reused, so use a different folder for different inputs.
        png_level: zlib level, 0 (fast) to 9 (small).
        photometric: also change brightness and contrast mildly, except for k = 0, the original.
        seed: determines the photometric changes.
        channels: 1 writes grey images, 3 those of three channels.

    Returns:
        The sample table that was written.

    Raises:
        UserError: the merged dataset is missing, its train split is empty, or an image is broken.
    """
    table = read_table(merged / TABLE_NAME)
    wanted = table[table["split"] == "train"]
    if wanted.empty:
        raise UserError(f"{merged / TABLE_NAME} has no image in the train split")
    samples: list[dict[str, Any]] = [{str(k): v for k, v in row.items()} for row in wanted.to_dict("records")]

    def augment_one(sample: dict[str, Any]) -> list[dict[str, Any]]:
        return augment_sample(sample, merged, partial, png_level, seed if photometric else None, channels)

    rows = [row for found in map_threads(augment_one, samples, "augment") for row in found]
    augmented = pd.DataFrame(rows)
    write_table(partial / TABLE_NAME, augmented)
    write_dataset_levels(partial, read_dataset_levels(merged))
    replace_directory(partial, output)
    return augmented


def augment_sample(
    sample: dict[str, Any],
    merged: Path,
    output: Path,
    png_level: int,
    photometric_seed: int | None,
    channels: Channels,
) -> list[dict[str, Any]]:
    """Write the eight versions of one image; return their rows of the sample table."""
    image = read_image(merged / sample["path"], channels)
    mask = read_grey(merged / sample["mask_path"]) if sample["mask_path"] else None
    small = hash_pixels(as_channels(image, 1))
    # Hash before changing the light: the change is too mild to affect the hash
    hashes = perceptual_hash(np.stack([apply_symmetry(small, k) for k in range(SYMMETRIES)]))
    rows = []
    for k in range(SYMMETRIES):
        name = versioned(sample["path"], k)
        version = turn_image(image, k)
        if photometric_seed is not None and k > 0:
            version = change_light(version, f"{photometric_seed}:{sample['sha256']}:{k}")
        mask_name = None
        if mask is not None:
            mask_name = versioned(sample["mask_path"], k)
            write_image_file(output / mask_name, np.ascontiguousarray(apply_symmetry(mask, k)), png_level)
        rows.append(
            sample
            | {
                "path": name,
                "mask_path": mask_name,
                "sha256": write_image_file(output / name, version, png_level),
                "phash": hashes[k].tobytes().hex(),
                "height": version.shape[0],
                "width": version.shape[1],
                "symmetry": k,
                "boxes": turn_boxes(sample["boxes"], k, image.shape[0]),
            }
        )
    return rows


def turn_image(image: U8, k: int) -> U8:
    """Apply symmetry `k` to `uint8 [H, W]` or `[H, W, 3]`."""
    if image.ndim == 2:
        return np.ascontiguousarray(apply_symmetry(image, k))
    return np.ascontiguousarray(np.moveaxis(apply_symmetry(np.moveaxis(image, 2, 0), k), 0, 2))


def versioned(path: str, k: int) -> str:
    """The path `<stem>_<k>.png` beside `path`."""
    return str(PurePosixPath(path).with_suffix("")) + f"_{k}.png"


def turn_boxes(boxes: str, k: int, side: int) -> str:
    """Apply symmetry `k` to the boxes (JSON) of a square image of `side` pixels."""
    rows = json.loads(boxes)
    for row in rows:
        corners = np.array([[row["xmin"], row["ymin"]], [row["xmax"], row["ymax"]]])
        for _ in range(k % 4):
            corners = np.stack([corners[:, 1], side - corners[:, 0]], axis=1)
        if k >= 4:
            corners[:, 0] = side - corners[:, 0]
        (row["xmin"], row["ymin"]), (row["xmax"], row["ymax"]) = (
            corners.min(axis=0).round(2).tolist(),
            corners.max(axis=0).round(2).tolist(),
        )
    return json.dumps(rows)


def change_light(image: U8, key: str) -> U8:
    """Change brightness and contrast of an image mildly, by amounts that depend only on `key`."""
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    brighter = ImageEnhance.Brightness(Image.fromarray(image)).enhance(generator.uniform(*BRIGHTNESS))
    return np.asarray(ImageEnhance.Contrast(brighter).enhance(generator.uniform(*CONTRAST)))
