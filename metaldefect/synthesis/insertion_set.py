"""A folder of inserted defects, plus the parts needed to measure their seams."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaldefect.artifacts import read_json
from metaldefect.errors import UserError
from metaldefect.images import U8, read_grey, read_own, write_png
from metaldefect.ingest.loading import split_rows
from metaldefect.ingest.windows import WINDOWS
from metaldefect.inspection.layout import GOOD, INSERTIONS
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.config import InsertionConfig
from metaldefect.synthesis.inpainting import Mask
from metaldefect.synthesis.insertion import Canvas, draw_insertions, plan_insertions, write_insertions
from metaldefect.synthesis.painter import Painter

CATEGORY = "inserted"
PARTS = "insertions"


class InsertedImage(NamedTuple):
    """One visible insertion, read from disk; all arrays have the canvas's size, images also `[H, W, 3]`."""

    label: str
    canvas: U8  # before
    image: U8  # after
    pasted: U8  # after, without compositing
    mask: Mask  # where the image visibly changed
    brush: Mask  # where it was allowed to change
    window: tuple[slice, slice]  # the square that the models saw, resized to their size


def write_insertion_set(
    painter: Painter,
    canvases: Sequence[Canvas],
    real: Mapping[str, Sequence[Mask]],
    folder: Path,
    sampling: SamplingConfig,
    config: InsertionConfig,
    seed: int,
    sides: Mapping[str, int],
) -> dict[str, Any]:
    """Insert defects of each class but `good` into normal images; none if there is no other class.

    Writes `inserted/` (see `write_insertions`), and in `insertions/` the canvas, brush and uncomposited
    version of each visible one.

    Args:
        painter: models that draw the defects.
        canvases: normal images that the detector's other splits do not use.
        real: masks of real defects by class, whose shapes are reused.
        folder: an existing folder.
        sampling: how to sample.
        config: how many defects, attempts and pixels of feather.
        seed: of places, masks and drawing.
        sides: see `plan_insertions`.

    Returns:
        How many were `drawn`, are `invisible`, and serve `validation` and `test`.

    Raises:
        UserError: the canvases show fewer than two scenes, or no insertion can be seen.
    """
    defects = [label for label in painter.classes if label != GOOD]
    jobs = plan_insertions(defects, config.per_class, seed, canvases, real, sides) if defects else []
    drawn = draw_insertions(painter, jobs, sampling, seed, config.feather, config.batch_size, config.attempts)
    (folder / CATEGORY).mkdir(parents=True)
    counts = write_insertions(folder / CATEGORY, jobs, drawn)
    if jobs and counts["invisible"] == counts["drawn"]:
        raise UserError(
            f"none of {len(jobs)} insertions can be seen: train MaskGIT for longer, or guide it more strongly"
            " (train_maskgit.training.steps, synthesize.sampling.guidance)"
        )
    for job, found in zip(jobs, drawn, strict=True):
        if found.visible:
            stem = folder / PARTS / job.label / f"{job.number:04d}"
            write_png(f"{stem}_canvas.png", job.canvas.image)
            write_png(f"{stem}_pasted.png", found.pasted)
            write_png(f"{stem}_brush.png", job.mask.astype(np.uint8) * 255)
    return counts


def read_insertions(folder: Path) -> Iterator[InsertedImage]:
    """Iterate over the visible insertions that `write_insertion_set` wrote, in the order of their table."""
    category = folder / CATEGORY
    with (category / INSERTIONS).open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["path"]]
    for row in rows:
        stem = folder / PARTS / row["label"] / Path(row["path"]).stem
        yield InsertedImage(
            row["label"],
            read_own(f"{stem}_canvas.png"),
            read_own(category / row["path"]),
            read_own(f"{stem}_pasted.png"),
            read_grey(category / row["mask"]) > 127,
            read_grey(f"{stem}_brush.png") > 127,
            window_of(row),
        )


def window_of(row: Mapping[str, str]) -> tuple[slice, slice]:
    """The square window in a row of the table of insertions."""
    top, left, side = (int(row[name]) for name in ("top", "left", "side"))
    return slice(top, top + side), slice(left, left + side)


def window_sides(merged: Path) -> dict[str, int]:
    """The usual side in pixels of the windows that `merge` cut, by class; without those it left whole."""
    path = merged / WINDOWS
    return read_json(path) if path.is_file() else {}


def training_masks(merged: Path) -> dict[str, list[Mask]]:
    """Known masks of training images by class, except empty and full ones."""
    train = split_rows(merged, "train")
    known = train[train["mask_path"].notna()]
    masks: dict[str, list[Mask]] = {}
    for label, path in zip(known["label"], known["mask_path"], strict=True):
        mask = read_grey(merged / path) > 127
        if mask.any() and not mask.all():
            masks.setdefault(label, []).append(mask)
    return masks
