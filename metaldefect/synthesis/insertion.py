"""Defects inserted into normal images: where each goes, drawing them, and the folder they make."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from metaldefect.errors import UserError
from metaldefect.images import U8, write_png
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.synthesis.inpainting import Inpainted, Mask, inpaint
from metaldefect.synthesis.mask_makers import SMALLEST_PIXELS, make_mask
from metaldefect.synthesis.painter import Painter


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


class Drawn(NamedTuple):
    """What became of an insertion; all of the canvas's size."""

    image: U8
    pasted: U8  # the same without compositing, for the measure of seams
    mask: Mask  # where the image visibly changed; the whole brush where nothing visible was drawn
    visible: bool


def draw_insertions(
    painter: Painter,
    jobs: Sequence[Insertion],
    config: SamplingConfig,
    generator: torch.Generator,
    feather: float,
    batch_size: int,
    attempts: int,
) -> list[Drawn]:
    """Draw every job; those whose change cannot be seen are drawn again, the most visible try is kept.

    A model that has seen the surroundings may well go on with undamaged metal under the mask, so every
    further try is guided more strongly towards the class.
    """
    best: dict[int, Inpainted] = {}
    todo = list(range(len(jobs)))
    for attempt in range(attempts):
        for start in tqdm(
            range(0, len(todo), batch_size), desc=f"inserting, try {attempt + 1}", unit="batch"
        ):
            part = todo[start : start + batch_size]
            chosen = [jobs[i] for i in part]
            found = inpaint(
                painter,
                [job.canvas[job.window] for job in chosen],
                [job.mask[job.window] for job in chosen],
                [job.label for job in chosen],
                replace(config, guidance=config.guidance + 2.0 * attempt),
                generator,
                feather,
            )
            for i, new in zip(part, found, strict=True):
                if i not in best or new.changed.sum() > best[i].changed.sum():
                    best[i] = new
        todo = [i for i in todo if not visible(jobs[i], best[i])]
        if not todo:
            break
    return [placed(job, best[i]) for i, job in enumerate(jobs)]


def visible(job: Insertion, found: Inpainted) -> bool:
    """Whether a person would see that something was drawn: a tenth of the brush, and not a mere speck."""
    return bool(found.changed.sum() >= max(SMALLEST_PIXELS, 0.1 * job.mask.sum()))


def placed(job: Insertion, found: Inpainted) -> Drawn:
    """The drawn square back in its canvas."""
    image, pasted, mask = job.canvas.copy(), job.canvas.copy(), np.zeros(job.canvas.shape, bool)
    image[job.window], pasted[job.window], mask[job.window] = found.image, found.pasted, found.changed
    seen = visible(job, found)
    return Drawn(image, pasted, mask if seen else job.mask, seen)


def write_insertion(root: Path, job: Insertion, drawn: Drawn) -> None:
    """Write the image and its mask into a category folder in MVTec AD's layout."""
    write_png(root / "test" / job.label / f"{job.number:04d}.png", drawn.image)
    mask = drawn.mask.astype(np.uint8) * 255
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
    attempts: int = 3,
) -> None:
    """Write `test/good` (the canvases) and `per_class` inserted defects of each of the painter's classes.

    Args:
        painter: what draws.
        canvases: normal images `uint8 [H, W]` by file stem.
        per_class: defects of each class.
        root: an existing folder.
        seed: of places, masks and drawing.
        config: how to sample.
        feather: pixels of blend on either side of a mask's border.
        batch_size: defects drawn at once.
        attempts: how often a defect that cannot be seen is drawn.

    Raises:
        UserError: there is no canvas.
    """
    if not canvases:
        raise UserError("no normal images to insert defects in")
    for stem, canvas in canvases.items():
        write_png(root / "test" / "good" / f"{stem}.png", canvas)
    images = list(canvases.values())
    jobs = [plan_insertion(label, k, seed, images, ()) for label in painter.classes for k in range(per_class)]
    generator = torch.Generator().manual_seed(seed + 1)
    drawn = draw_insertions(painter, jobs, config, generator, feather, batch_size, attempts)
    for job, found in zip(jobs, drawn, strict=True):
        write_insertion(root, job, found)
