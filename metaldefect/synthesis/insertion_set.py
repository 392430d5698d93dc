"""A folder of inserted defects: an MVTec-like category, and beside it what measuring their seams needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from metaldefect.errors import UserError
from metaldefect.images import U8, read_grey, write_png
from metaldefect.ingest.loading import split_rows
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.synthesis.inpainting import Mask
from metaldefect.synthesis.insertion import draw_insertions, plan_insertion, write_insertion
from metaldefect.synthesis.painter import Painter

CATEGORY = "inserted"
TABLE = "insertions.parquet"
PARTS = "insertions"


class InsertionConfig(NamedTuple):
    """How defects are inserted.

    Attributes:
        per_class: defects of each class.
        attempts: how often one that cannot be seen is drawn.
        feather: pixels of blend on either side of a mask's border.
        batch_size: defects drawn at once.
    """

    per_class: int
    attempts: int
    feather: float
    batch_size: int


class InsertedImage(NamedTuple):
    """One visible insertion, read back; all images have the canvas's size."""

    label: str
    canvas: U8  # before
    image: U8  # after
    pasted: U8  # the same without compositing
    mask: Mask  # where the image visibly changed
    brush: Mask  # where it was allowed to change


def write_insertion_set(
    painter: Painter,
    canvases: list[Path],
    real: dict[str, list[Mask]],
    folder: Path,
    sampling: SamplingConfig,
    config: InsertionConfig,
    seed: int,
) -> pd.DataFrame:
    """Insert defects of each class into normal images; one row per insertion, the invisible ones too.

    Writes `inserted/` (MVTec AD's layout: the canvases as `test/good`, visible insertions with their masks),
    `insertions/` (canvas, brush and uncomposited version of each) and `insertions.parquet`.

    Args:
        painter: what draws.
        canvases: files of normal images.
        real: masks of real defects by class, whose shapes are used again.
        folder: an existing folder.
        sampling: how to sample.
        config: how many, how often, how soft.
        seed: of places, masks and drawing.

    Raises:
        UserError: there are no canvases.
    """
    if not canvases:
        raise UserError("there are no normal images to insert defects in")
    images = [read_grey(path) for path in canvases]
    for path, image in zip(canvases, images, strict=True):
        write_png(folder / CATEGORY / "test/good" / path.name, image)
    jobs = [
        plan_insertion(label, number, seed, images, real.get(label, []))
        for label in painter.classes
        for number in range(config.per_class)
    ]
    generator = torch.Generator().manual_seed(seed + 1)
    drawn = draw_insertions(
        painter, jobs, sampling, generator, config.feather, config.batch_size, config.attempts
    )
    rows: list[dict[str, Any]] = []
    for job, found in zip(jobs, drawn, strict=True):
        name = f"{job.label}/{job.number:04d}"
        if found.visible:
            write_insertion(folder / CATEGORY, job, found)
            write_png(folder / PARTS / f"{name}_canvas.png", job.canvas)
            write_png(folder / PARTS / f"{name}_pasted.png", found.pasted)
            write_png(folder / PARTS / f"{name}_brush.png", job.mask.astype(np.uint8) * 255)
        rows.append({"label": job.label, "number": job.number, "visible": found.visible})
    table = pd.DataFrame(rows)
    table.to_parquet(folder / TABLE, index=False)
    return table


def read_insertions(folder: Path) -> Iterator[InsertedImage]:
    """The visible insertions of a folder that `write_insertion_set` made, in the table's order."""
    table = pd.read_parquet(folder / TABLE)
    for row in table[table["visible"]].itertuples():
        name = f"{row.label}/{row.number:04d}"
        category, parts = folder / CATEGORY, folder / PARTS
        yield InsertedImage(
            str(row.label),
            read_grey(parts / f"{name}_canvas.png"),
            read_grey(category / f"test/{name}.png"),
            read_grey(parts / f"{name}_pasted.png"),
            read_grey(category / f"ground_truth/{name}_mask.png") > 127,
            read_grey(parts / f"{name}_brush.png") > 127,
        )


def training_masks(merged: Path) -> dict[str, list[Mask]]:
    """Known masks of training images by class, without empty and full ones."""
    train = split_rows(merged, "train")
    known = train[train["mask_path"].notna()]
    masks: dict[str, list[Mask]] = {}
    for label, path in zip(known["label"], known["mask_path"], strict=True):
        mask = read_grey(merged / path) > 127
        if mask.any() and not mask.all():
            masks.setdefault(label, []).append(mask)
    return masks
