"""Insert defects into normal images: plan where each goes, draw it, and write the folder."""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from metaldefect.errors import UserError
from metaldefect.images import U8, as_channels, drop_equal_channels, write_png
from metaldefect.ingest.splits import position
from metaldefect.inspection.layout import CANVAS, INSERTIONS, mask_path
from metaldefect.inspection.provider import InspectionImage, RealDatasetProvider
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.change import recolour
from metaldefect.synthesis.inpainting import FILLED, Inpainted, Mask, guided_more, inpaint
from metaldefect.synthesis.mask_makers import SMALLEST_PIXELS, cut_sides, make_mask
from metaldefect.synthesis.painter import Painter
from metaldefect.synthesis.photographs import Window

SPLITS = ("validation", "test")


class Canvas(NamedTuple):
    """A normal image to insert defects in; canvases of one scene show the same piece of metal.

    `image` is `uint8 [H, W]`, or `[H, W, 3]`: a defect that is drawn in grey changes the colours' brightness.
    `split` restricts what its defects serve for: `validation` or `test`; None allows either.
    """

    name: str
    scene: str
    image: U8
    split: str | None = None


def canvases_of(provider: RealDatasetProvider) -> list[Canvas]:
    """All normal images that may carry a defect, named by their path in the dataset.

    Validation normals carry defects to choose by, test normals carry defects to test on. Images that the
    detector trains on carry none, nor do those whose scene lies in a split of another purpose.
    """

    def canvas(folder: str, item: InspectionImage, split: str | None = None) -> Canvas:
        image = item.image if item.image.ndim == 2 else drop_equal_channels(item.image)
        return Canvas(f"{folder}/{item.name}", item.scene, image, split)

    found = [canvas(CANVAS, item) for item in provider.canvases()]
    for split, images, foreign in (
        ("validation", provider.validation(), ("train", "test")),
        ("test", provider.normal_test(), ("train", "validation")),
    ):
        taken = set[str]().union(*(provider.scenes_of(other) for other in foreign))
        found += [canvas(split, item, split) for item in images if item.scene not in taken]
    return found


class Insertion(NamedTuple):
    """Plan of one defect: the canvas, the square window to work on, and the mask."""

    label: str
    number: int  # within its class
    split: str  # `validation`: to choose by; `test`: to test on
    canvas: Canvas
    window: Window
    mask: Mask  # bool, the canvas's size


def divide_canvases(canvases: Sequence[Canvas], seed: int) -> dict[str, list[Canvas]]:
    """Split the canvases into `validation` (to choose by) and `test`: half of the free scenes each.

    Raises:
        UserError: the canvases show too few scenes for one of the two.
    """
    fixed = {canvas.scene: canvas.split for canvas in canvases if canvas.split}
    free = sorted({canvas.scene for canvas in canvases} - set(fixed), key=lambda scene: position(scene, seed))
    purpose = fixed | {scene: SPLITS[number % len(SPLITS)] for number, scene in enumerate(free)}
    divided = {split: [canvas for canvas in canvases if purpose[canvas.scene] == split] for split in SPLITS}
    if not all(divided.values()):
        raise UserError(
            f"{len(canvases)} normal images of {len(purpose)} scene(s) to insert defects in: defects to"
            " choose by and defects to test on need a scene each; add normal images of other pieces"
        )
    return divided


def plan_insertions(
    classes: Sequence[str],
    per_class: int,
    seed: int,
    canvases: Sequence[Canvas],
    real: Mapping[str, Sequence[Mask]],
    sides: Mapping[str, int] | None = None,
) -> list[Insertion]:
    """Plan where `per_class` defects of each class go; every other one is for testing.

    Args:
        classes: the painter's classes.
        per_class: defects per class.
        seed: of places and masks.
        canvases: normal images that the detector's other splits do not use.
        real: known masks by class; a class without any gets procedural ones.
        sides: of the windows in which the models learnt a class, in pixels of a photograph; a class without
            one was learnt in whole photographs, and its windows are as large as the canvas allows.

    Raises:
        UserError: as in `divide_canvases`.
    """
    divided = divide_canvases(canvases, seed)
    jobs = []
    for label in classes:
        for number in range(per_class):
            split = SPLITS[number % len(SPLITS)]
            masks, side = real.get(label, ()), (sides or {}).get(label)
            jobs.append(plan_insertion(label, number, seed, split, divided[split], masks, side))
    return jobs


def plan_insertion(
    label: str,
    number: int,
    seed: int,
    split: str,
    canvases: Sequence[Canvas],
    real: Sequence[Mask],
    side: int | None = None,
) -> Insertion:
    """Choose a canvas, a square window and a mask inside it; chance depends on the first three arguments.

    A mask that reaches a side of the window is a defect that its photograph's border cut off. Its window
    moves to that side of the canvas.
    """
    rng = np.random.default_rng([seed, zlib.crc32(label.encode()), number])
    canvas = canvases[int(rng.integers(len(canvases)))]
    shape = canvas.image.shape[:2]
    side = min(side or min(shape), *shape)
    window = square_window(rng, shape, side)
    shown = make_mask(rng, side, real)
    window = at_border(window, shown, shape)
    mask = np.zeros(shape, bool)
    mask[window] = shown
    return Insertion(label, number, split, canvas, window, mask)


def square_window(rng: np.random.Generator, shape: tuple[int, ...], side: int) -> tuple[slice, slice]:
    """A random square inside an image: the tokenizer draws squares, and stretching shows."""
    top, left = (int(rng.integers(0, length - side + 1)) for length in shape)
    return slice(top, top + side), slice(left, left + side)


def at_border(window: Window, mask: Mask, shape: tuple[int, ...]) -> Window:
    """A window, moved to those sides of the canvas of some shape that its mask reaches in the window."""
    at_top, at_bottom, at_left, at_right = cut_sides(mask)
    moved = []
    for part, length, first, last in zip(
        window, shape, (at_top, at_left), (at_bottom, at_right), strict=True
    ):
        side = part.stop - part.start
        start = 0 if first else length - side if last else part.start
        moved.append(slice(start, start + side))
    return moved[0], moved[1]


class Drawn(NamedTuple):
    """Result of an insertion; all arrays have the canvas's size.

    The images have its channels too, or three if the defect was drawn in colour.
    """

    image: U8
    pasted: U8  # without compositing, to measure seams against
    mask: Mask  # where the image visibly changed
    visible: bool  # False: only a few pixels changed, which is no defect


def draw_insertions(
    painter: Painter,
    jobs: Sequence[Insertion],
    config: SamplingConfig,
    seed: int,
    feather: float,
    batch_size: int,
    attempts: int,
) -> list[Drawn]:
    """Draw every job; redraw those that do not fill their brush, and keep the attempt that fills it best.

    A model that sees the surroundings often continues undamaged metal under the mask, so each further
    attempt uses stronger guidance towards the class. The result of a job depends on the seed, its class and
    its number, not on the other jobs.
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
                [as_channels(job.canvas.image[job.window], painter.channels) for job in chosen],
                [brush(job) for job in chosen],
                [job.label for job in chosen],
                guided_more(config, attempt),
                [image_generator(seed, "insertion", job.label, job.number, attempt) for job in chosen],
                feather,
            )
            for i, new in zip(part, found, strict=True):
                if i not in best or new.fills(brush(jobs[i])) > best[i].fills(brush(jobs[i])):
                    best[i] = new
        todo = [i for i in todo if best[i].fills(brush(jobs[i])) < FILLED]
        if not todo:
            break
    return [placed(job, best[i]) for i, job in enumerate(jobs)]


def brush(job: Insertion) -> Mask:
    """The mask to fill, inside the window."""
    return job.mask[job.window]


def visible(job: Insertion, found: Inpainted) -> bool:
    """Whether a person would see the defect: it covers a tenth of the brush and is more than a speck."""
    return bool(found.changed.sum() >= max(SMALLEST_PIXELS, 0.1 * job.mask.sum()))


def placed(job: Insertion, found: Inpainted) -> Drawn:
    """Put the drawn square back into its canvas."""
    whole = as_channels(job.canvas.image, 3) if found.image.ndim == 3 else job.canvas.image
    image, pasted = whole.copy(), whole.copy()
    mask, before = np.zeros(image.shape[:2], bool), whole[job.window]
    image[job.window], pasted[job.window] = recolour(before, found.image), recolour(before, found.pasted)
    mask[job.window] = found.changed
    return Drawn(image, pasted, mask, visible(job, found))


def write_insertions(root: Path, jobs: Sequence[Insertion], drawn: Sequence[Drawn]) -> dict[str, Any]:
    """Write the visible insertions, `<split>/<label>/` and `ground_truth/<label>/`, and `insertions.csv`.

    An insertion that cannot be seen is not a defect: it gets no image and no mask, only a row without paths.
    `top`, `left` and `side` are those of the square window in which it was drawn, in pixels of the canvas.

    Args:
        root: an existing folder.
        jobs: the planned insertions.
        drawn: the result of each job.

    Returns:
        How many were `drawn`, are `invisible`, and serve `validation` and `test`.
    """
    rows, counts = [], Counter[str]()
    for job, found in zip(jobs, drawn, strict=True):
        stem = f"{job.number:04d}"
        image, mask = f"{job.split}/{job.label}/{stem}.png", mask_path(Path(), job.label, stem).as_posix()
        if found.visible:
            write_png(root / image, found.image)
            write_png(root / mask, found.mask.astype(np.uint8) * 255)
            counts[job.split] += 1
        paths = (image, mask) if found.visible else ("", "")
        top, left = job.window[0].start, job.window[1].start
        window = (top, left, job.window[0].stop - top)
        rows.append((*paths, job.label, job.split, job.canvas.name, job.canvas.scene, *window))
    with (root / INSERTIONS).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "mask", "label", "split", "canvas", "scene", "top", "left", "side"))
        writer.writerows(rows)
    seen = {split: counts[split] for split in SPLITS}
    return {"drawn": len(jobs), "invisible": len(jobs) - sum(seen.values()), **seen}
