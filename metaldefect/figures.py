"""Image grids, mask overlays and bar charts, shared by all figures of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metaldefect.images import as_channels


def image_grid(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    row_labels: Sequence[str],
    column_labels: Sequence[str] | None = None,
    cell: float = 1.3,
) -> Figure:
    """Lay out grey or RGB images in a grid, with one label per row and per column."""
    columns = max(len(row) for row in rows)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(cell * columns + 1.2, cell * len(rows) + 0.3), squeeze=False
    )
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    for i, row in enumerate(rows):
        axes[i, 0].set_ylabel(row_labels[i], rotation=0, ha="right", va="center", fontsize=8)
        for j, image in enumerate(row):
            axes[i, j].imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255)
    for j, label in enumerate(column_labels or []):
        axes[0, j].set_title(label, fontsize=8)
    figure.tight_layout(pad=0.3)
    return figure


def mask_overlay(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Tint the mask red on an image `uint8 [H, W]` or `[H, W, 3]`; returns `uint8 [H, W, 3]`."""
    colour = as_channels(image, 3).astype(np.float32)
    colour[mask] = 0.55 * colour[mask] + 0.45 * np.array([255.0, 30.0, 30.0])
    return colour.round().astype(np.uint8)


def close_up(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The square of an image that shows a defect large: half the shorter side, or more if the mask needs it.

    Args:
        mask: of the defect, `bool [H, W]`; without a pixel, the middle is shown.

    Returns:
        Rows and columns, inside the image, around the middle of the mask.
    """
    ends = []
    for axis, length in ((1, mask.shape[0]), (0, mask.shape[1])):
        hit = np.flatnonzero(mask.any(axis=axis))
        ends.append((int(hit[0]), int(hit[-1]) + 1) if len(hit) else (length // 2, length // 2))
    longest = max(last - first for first, last in ends)
    side = min(*mask.shape, max(min(mask.shape) // 2, round(1.2 * longest)))
    starts = [
        min(max((first + last - side) // 2, 0), length - side)
        for (first, last), length in zip(ends, mask.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def bars(values: dict[str, dict[str, float]], ylabel: str) -> Figure:
    """Draw grouped bars: one group per outer key, one colour per inner key."""
    table = pd.DataFrame(values).T
    figure, axis = plt.subplots(figsize=(1.2 * len(table) + 2, 3))
    table.plot.bar(ax=axis, rot=0)
    axis.set_ylabel(ylabel)
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG whose bytes depend on the figure alone (no date, no version)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def save_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Write each figure as `<name>.png`."""
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
