"""Figures of generated images: next to real ones, next to their nearest neighbours, and while unmasking."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metaldefect.figures import image_grid, mask_overlay
from metaldefect.images import U8, read_grey
from metaldefect.ingest.loading import split_rows
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.insertion_set import InsertedImage
from metaldefect.synthesis.painter import Painter


def real_and_drawn(merged: Path, synthetic: Path, drawn: pd.DataFrame, size: int, count: int = 5) -> Figure:
    """Real training images and generated ones of each class, in alternating rows."""
    train = split_rows(merged, "train")
    rows, names = [], []
    for label in dict.fromkeys(drawn["label"]):
        for kind, folder, table in (("real", merged, train), ("drawn", synthetic, drawn)):
            paths = table.loc[table["label"] == label, "path"].head(count)
            rows.append([read_grey(folder / path, size) for path in paths])
            names.append(f"{label}\n{kind}")
    return image_grid(rows, names)


def neighbours(
    merged: Path, synthetic: Path, drawn: pd.DataFrame, nearest: NDArray[np.int64], size: int
) -> Figure:
    """One generated image per class and the training images nearest to it.

    Args:
        merged: folder of the merged dataset.
        synthetic: folder of the generated images.
        drawn: table of the generated images.
        nearest: indices of training rows for each row of `drawn`, nearest first, `int64 [N, count]`.
        size: side of the images.
    """
    train = split_rows(merged, "train")
    classes = list(dict.fromkeys(drawn["label"]))
    rows = []
    for label in classes:
        first = int(np.flatnonzero(drawn["label"] == label)[0])
        paths = [synthetic / drawn["path"].iloc[first]]
        paths += [merged / train["path"].iloc[int(i)] for i in nearest[first]]
        rows.append([read_grey(path, size) for path in paths])
    columns = ["drawn", *(f"train, {i}." for i in range(1, nearest.shape[1] + 1))]
    return image_grid(rows, classes, columns)


def unmasking(painter: Painter, config: SamplingConfig, seed: int, columns: int = 8) -> Figure:
    """Steps of unmasking one image per class; unknown tokens are grey."""
    labels = torch.arange(len(painter.classes))
    history: list[torch.Tensor] = []
    generators = painter.generators(labels, [0] * len(labels), seed)
    painter.draw_tokens(labels, config, generators, history=history)
    field = painter.drawn_fields(labels, generators)
    chosen = sorted({round(i) for i in np.linspace(0, len(history) - 1, columns)})
    rows: list[list[U8]] = [[] for _ in painter.classes]
    side = painter.image_size // painter.maskgit.config.grid
    for step in chosen:
        unknown = history[step] == painter.maskgit.config.mask_id
        decoded = painter.decode(history[step].masked_fill(unknown, 0), field)
        hidden = unknown.numpy().repeat(side, axis=1).repeat(side, axis=2)
        for row, image in zip(rows, np.where(hidden, np.uint8(128), decoded), strict=True):
            row.append(image)
    return image_grid(rows, painter.classes, [f"step {step + 1}" for step in chosen])


def inserted_defects(insertions: Iterable[InsertedImage]) -> Figure | None:
    """Canvas, mask and result of the first visible insertion of each class; None if there are none."""
    first: dict[str, InsertedImage] = {}
    for item in insertions:
        first.setdefault(item.label, item)
    if not first:
        return None
    rows = [[item.canvas, mask_overlay(item.image, item.mask), item.image] for item in first.values()]
    return image_grid(rows, list(first), ["normal", "mask", "inserted"], cell=1.8)
