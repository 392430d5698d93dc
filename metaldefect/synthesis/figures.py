"""Figures of generated images: beside training images, mixed with test images, with neighbours, unmasking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metaldefect.figures import close_up, image_grid
from metaldefect.images import U8, read_own
from metaldefect.ingest.loading import split_rows
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.insertion_set import InsertedImage
from metaldefect.synthesis.painter import Painter

SHEET, COLUMNS = 24, 6  # crops on a mixed sheet, and in one of its rows
SHOWN = 256  # pixels, to which the view of an insertion is thinned out


def real_and_drawn(merged: Path, synthetic: Path, drawn: pd.DataFrame, size: int, count: int = 5) -> Figure:
    """One row per class: training images, in turn from each source, and generated ones beside them."""
    train = split_rows(merged, "train").drop_duplicates("group")  # no photograph twice
    # The first image of every source, then the second of every source, and so on
    in_turn = train.loc[train.groupby(["label", "source"]).cumcount().sort_values(kind="stable").index]
    classes = list(dict.fromkeys(drawn["label"]))
    figure = plt.figure(figsize=(1.15 * 2 * count + 1.6, 1.15 * len(classes) + 0.5), layout="constrained")
    grid = figure.add_gridspec(1, 2, wspace=0.02, width_ratios=(count + 0.8, count))
    left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    for part, title, folder, table in (
        (left, "training images", merged, in_turn),
        (right, "drawn", synthetic, drawn),
    ):
        part.suptitle(title, fontsize=11)
        axes = part.subplots(len(classes), count, squeeze=False)
        for axis in axes.ravel():
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        for row, label in zip(axes, classes, strict=True):
            for axis, path in zip(row, table.loc[table["label"] == label, "path"], strict=False):
                axis.imshow(read_own(folder / path, size), cmap="gray", vmin=0, vmax=255)
            if part is left:
                row[0].set_ylabel(plain_name(label), rotation=0, ha="right", va="center", fontsize=9)
    return figure


def plain_name(label: str) -> str:
    """A class's name for people, on two lines where it has two words."""
    return label.replace("_", "\n")


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
        rows.append([read_own(path, size) for path in paths])
    columns = ["drawn", *(f"train, {i}." for i in range(1, nearest.shape[1] + 1))]
    return image_grid(rows, classes, columns)


def unmasking(painter: Painter, config: SamplingConfig, seed: int, columns: int = 8) -> Figure:
    """Steps of unmasking one image per class, and the finished image; unknown tokens are grey."""
    labels = torch.arange(len(painter.classes))
    history: list[torch.Tensor] = []
    generators = painter.generators(labels, [0] * len(labels), seed)
    known, field = painter.start(labels, generators)
    tokens = painter.draw_tokens(labels, config, generators, known, history)
    chosen = sorted({round(i) for i in np.linspace(0, len(history) - 1, columns)})
    rows: list[list[U8]] = [[] for _ in painter.classes]
    side = painter.image_size // painter.maskgit.config.grid
    for step in chosen:
        unknown = history[step] == painter.maskgit.config.mask_id
        decoded = painter.decode(history[step].masked_fill(unknown, 0), field)
        hidden = unknown.numpy().repeat(side, axis=1).repeat(side, axis=2)
        hidden = hidden if decoded.ndim == 3 else hidden[..., None]
        for row, image in zip(rows, np.where(hidden, np.uint8(128), decoded), strict=True):
            row.append(image)
    for row, image in zip(rows, painter.finish(tokens, labels, field, generators), strict=True):
        row.append(image)
    return image_grid(rows, painter.classes, [*(f"step {step + 1}" for step in chosen), "with detail"])


def mixed_sheet(
    merged: Path, synthetic: Path, drawn: pd.DataFrame, size: int, seed: int
) -> tuple[Figure, Figure]:
    """Crops of test images and of drawn ones, mixed and numbered, and the key to them.

    Both kinds and all classes come equally often, as far as there are images.

    Args:
        merged: folder of the merged dataset.
        synthetic: folder of the generated images.
        drawn: table of the generated images.
        size: side of the images; crops are half as wide, and each shows the busiest part of its image.
        seed: of the choice and the order.
    """
    rng = np.random.default_rng(seed)
    crops: list[tuple[U8, str]] = []
    for kind, folder, table in (("test", merged, split_rows(merged, "test")), ("drawn", synthetic, drawn)):
        own = table[table["label"].isin(drawn["label"])].sample(frac=1.0, random_state=seed)
        # The first image of every class, then the second of every class, and so on
        order = own.groupby("label").cumcount().sort_values(kind="stable").index
        for row in own.loc[order].head(SHEET // 2).itertuples():
            image = read_own(folder / str(row.path), size)
            crops.append((busiest_crop(image), f"{kind}: {row.label}"))
    crops = [crops[number] for number in rng.permutation(len(crops))]
    names = [str(number + 1) for number in range(len(crops))]
    return titled_grid(crops, names), titled_grid(
        crops, [f"{name} {crop[1]}" for name, crop in zip(names, crops, strict=True)]
    )


def busiest_crop(image: U8) -> U8:
    """The part of half the image's sides, `uint8 [H / 2, W / 2]`, whose levels vary most.

    A defect is likely to be there, in test images and drawn ones alike.
    """
    height, width = image.shape[0] // 2, image.shape[1] // 2
    places = [
        image[top : top + height, left : left + width]
        for top in range(0, height + 1, max(1, height // 4))
        for left in range(0, width + 1, max(1, width // 4))
    ]
    return max(places, key=lambda part: float(part.std()))


def titled_grid(crops: Sequence[tuple[U8, str]], titles: Sequence[str]) -> Figure:
    """Crops in rows of six, each under its title."""
    figure, axes = plt.subplots(-(-len(crops) // COLUMNS), COLUMNS, figsize=(9, 6.6), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, (image, _), title in zip(axes.ravel(), crops, titles, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=7)
    figure.tight_layout(pad=0.4)
    return figure


def inserted_defects(insertions: Iterable[InsertedImage]) -> Figure | None:
    """Good metal, the defect in it, and the outline of its mask, close up; None if there are none.

    Of each class's insertions it shows the one whose grey levels change the image to the median degree:
    neither the best nor the worst.
    """
    of_class: dict[str, list[tuple[float, list[U8], NDArray[np.bool_]]]] = {}
    for item in insertions:
        window = close_up(item.mask)
        before, after, mask = item.canvas[window], item.image[window], item.mask[window]
        change = float(np.abs(after.astype(np.float32) - before).sum())
        every = max(1, max(mask.shape) // SHOWN)  # small copies: all insertions are kept until the last
        views = [view[::every, ::every].copy() for view in (before, after)]
        of_class.setdefault(item.label, []).append((change, views, mask[::every, ::every].copy()))
    if not of_class:
        return None
    figure, grid = plt.subplots(
        3, len(of_class), figsize=(1.9 * len(of_class) + 0.4, 6.1), layout="constrained", squeeze=False
    )
    for column, (label, found) in zip(grid.T, of_class.items(), strict=True):
        _, (before, after), mask = sorted(found, key=lambda one: one[0])[len(found) // 2]
        for axis, image in zip(column, (before, after, after), strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        if mask.any() and not mask.all():
            column[2].contour(mask, [0.5], colors="red", linewidths=1)
        column[0].set_title(label.replace("_", " "), fontsize=11)
    for axis, name in zip(grid[:, 0], ("good metal", "drawn defect", "its mask"), strict=True):
        axis.set_ylabel(name, fontsize=11)
    return figure
