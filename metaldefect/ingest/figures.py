"""Figures of the merged dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from metaldefect.images import read_grey, resize
from metaldefect.ingest.groups import apply_symmetry
from metaldefect.ingest.merge import NEAR_DUPLICATES
from metaldefect.ingest.samples import TABLE_NAME, read_table


def merge_figures(merged: Path) -> dict[str, Figure]:
    """Draw a merged dataset's counts, splits and near-duplicates."""
    table = read_table(merged / TABLE_NAME)
    return {
        "images_per_class_and_source": counts_figure(table),
        "share_of_each_split": splits_figure(table),
        "near_duplicate_pairs": pairs_figure(merged),
    }


def counts_figure(table: pd.DataFrame) -> Figure:
    """Draw the number of images per class as stacked bars, one colour per source."""
    counts = table.groupby(["label", "source"]).size().unstack(fill_value=0).sort_index()
    figure = Figure(figsize=(8, 0.6 * len(counts) + 1.6), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(counts))
    for source in counts.columns:
        bars = axes.barh(counts.index, counts[source], left=left, label=source)
        axes.bar_label(
            bars, [str(n) if n else "" for n in counts[source]], label_type="center", color="white"
        )
        left += counts[source].to_numpy()
    axes.margins(x=0.12)
    axes.bar_label(bars, [f" {int(total)}" for total in left])
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def splits_figure(table: pd.DataFrame) -> Figure:
    """Draw the share of each split, one stacked bar per class and source."""
    name = table["label"] + " · " + table["source"]
    counts = table.groupby([name, "split"]).size().unstack(fill_value=0).sort_index()
    counts = counts[[split for split in ("train", "validation", "test") if split in counts]]
    shares = counts.div(counts.sum(axis=1), axis=0)
    figure = Figure(figsize=(8, 0.4 * len(shares) + 1.6), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(shares))
    for split in shares.columns:
        bars = axes.barh(shares.index, shares[split], left=left, label=split)
        axes.bar_label(bars, [str(n) if n else "" for n in counts[split]], label_type="center", color="white")
        left += shares[split].to_numpy()
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of images (numbers: images)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def pairs_figure(merged: Path, columns: int = 6) -> Figure:
    """Show near-duplicate pairs one above the other, from the weakest to the strongest correlation.

    Args:
        merged: folder of the merged dataset; pairs with a dropped image are left out.
        columns: number of pairs to show.
    """
    pairs = pd.read_csv(merged / NEAR_DUPLICATES).dropna(subset=["first", "second"])
    ordered = pairs.sort_values(["correlation", "first", "second"]).reset_index(drop=True)
    figure = Figure(figsize=(1.9 * columns, 4.6), layout="constrained")
    if ordered.empty:
        figure.text(0.5, 0.5, "no near-duplicate pairs", ha="center")
        return figure
    chosen = ordered.iloc[np.unique(np.linspace(0, len(ordered) - 1, columns).astype(int))]
    axes = figure.subplots(2, len(chosen), squeeze=False)
    for column, pair in enumerate(chosen.to_dict("records")):
        one = resize(read_grey(merged / pair["first"]), 200)
        # Align the second image with the first, for comparison by eye
        other = apply_symmetry(resize(read_grey(merged / pair["second"]), 200), pair["symmetry"])
        for row, (image, path) in enumerate(((one, pair["first"]), (other, pair["second"]))):
            axes[row, column].imshow(image, cmap="gray", vmin=0, vmax=255)
            axes[row, column].set_axis_off()
            axes[row, column].set_title(Path(path).name, fontsize=7)
        axes[1, column].text(
            0.5,
            -0.08,
            f"r = {pair['correlation']:.4f}, {pair['distance']} bits, k = {pair['symmetry']}",
            transform=axes[1, column].transAxes,
            ha="center",
            va="top",
            fontsize=8,
        )
    return figure
