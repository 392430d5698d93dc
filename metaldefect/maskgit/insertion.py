"""Defects inserted into normal images: where each goes, drawing them, and the folder they make."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from metaldefect.images import U8, write_png
from metaldefect.maskgit.inpainting import Mask, inpaint
from metaldefect.maskgit.mask_makers import make_mask
from metaldefect.maskgit.painter import Painter
from metaldefect.maskgit.sampler import SamplingConfig


class Insertion(NamedTuple):
    """Where a defect goes: a normal image, the square of it that is worked on, and the mask."""

    label: str
    number: int  # within its class
    canvas: U8
    window: tuple[slice, slice]
    mask: Mask  # bool, the canvas's size


def plan_insertion(
    label: str, number: int, seed: int, canvases: Sequence[U8], real: Sequence[Mask]
) -> Insertion:
    """Choose a canvas, a square of it and a mask inside that square; a function of the first three alone."""
    rng = np.random.default_rng([seed, zlib.crc32(label.encode()), number])
    canvas = canvases[int(rng.integers(len(canvases)))]
    window = square_window(rng, canvas.shape)
    mask = np.zeros(canvas.shape, bool)
    mask[window] = make_mask(rng, min(canvas.shape), real)
    return Insertion(label, number, canvas, window, mask)


def square_window(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A random square of the image's shorter side: the tokenizer draws squares, and stretching shows."""
    side = min(shape)
    top, left = (int(rng.integers(0, length - side + 1)) for length in shape)
    return slice(top, top + side), slice(left, left + side)


def draw_insertions(
    painter: Painter,
    jobs: Sequence[Insertion],
    config: SamplingConfig,
    generator: torch.Generator,
    feather: float,
    batch_size: int,
) -> Iterator[tuple[Insertion, U8]]:
    """Each job with its image `uint8 [H, W]`, in order; drawn in batches."""
    for start in tqdm(range(0, len(jobs), batch_size), desc="inserting", unit="batch"):
        part = jobs[start : start + batch_size]
        filled = inpaint(
            painter,
            [job.canvas[job.window] for job in part],
            [job.mask[job.window] for job in part],
            [job.label for job in part],
            config,
            generator,
            feather,
        )
        for job, crop in zip(part, filled, strict=True):
            image = job.canvas.copy()
            image[job.window] = crop
            yield job, image


def write_insertion(root: Path, job: Insertion, image: U8) -> None:
    """Write the image and its mask into a category folder in MVTec AD's layout."""
    write_png(root / "test" / job.label / f"{job.number:04d}.png", image)
    mask = job.mask.astype(np.uint8) * 255
    write_png(root / "ground_truth" / job.label / f"{job.number:04d}_mask.png", mask)


def write_inserted(
    painter: Painter,
    canvases: Mapping[str, U8],
    per_class: int,
    root: Path,
    *,
    seed: int,
    config: SamplingConfig,
    feather: float,
    batch_size: int,
) -> None:
    """Write `test/good` (the canvases) and `per_class` inserted defects of each of the painter's classes.

    Args:
        painter: what draws.
        canvases: normal images `uint8 [H, W]` by file stem.
        per_class: defects of each class.
        root: an existing folder.
        seed: of places, masks and drawing.
        config: how to sample.
        feather: pixels of blend around a defect.
        batch_size: defects drawn at once.

    Raises:
        ValueError: there is no canvas.
    """
    if not canvases:
        raise ValueError("no normal images to insert defects in")
    for stem, canvas in canvases.items():
        write_png(root / "test" / "good" / f"{stem}.png", canvas)
    images = list(canvases.values())
    jobs = [plan_insertion(label, k, seed, images, ()) for label in painter.classes for k in range(per_class)]
    generator = torch.Generator().manual_seed(seed + 1)
    for job, image in draw_insertions(painter, jobs, config, generator, feather, batch_size):
        write_insertion(root, job, image)
