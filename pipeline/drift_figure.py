"""The picture of a drift comparison: what the reference and the batch look like, and what moved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metaldefect.deploy.prediction_log import GRID
from metaldefect.metrics.drift import DriftResult

Columns = Mapping[str, NDArray[np.float64]]

NUMBERS = {
    "score": "score",
    "grey_mean": "brightness (mean grey level)",
    "grey_std": "contrast (spread of grey levels)",
}
BINS = 24
REFERENCE, BATCH, ALARM = "0.55", "tab:blue", "tab:red"


def drift_figure(reference: Columns, batch: Columns, result: DriftResult, text: str) -> Figure:
    """Three histograms and the change of the anomaly map, each red if it raises the alarm.

    Args:
        reference: `score`, `grey_mean`, `grey_std` `[N]`, `embedding` `[N, 64]`.
        batch: the same columns of the live model's log.
        result: the comparison.
        text: the title.
    """
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, 4)
    moved = {statistic.name.rpartition("_")[0] for statistic in result.statistics if statistic.exceeds}
    for axis, (name, words) in zip(axes, NUMBERS.items(), strict=False):
        histogram(axis, reference[name], batch[name], name in moved)
        axis.set_xlabel(words)
    axes[0].set_ylabel("share of the images")
    axes[0].legend(fontsize=8, frameon=False)
    change = (batch["embedding"].mean(axis=0) - reference["embedding"].mean(axis=0)).reshape(GRID, GRID)
    widest = max(float(np.abs(change).max()), 1e-6)
    shown = axes[3].imshow(change, cmap="RdBu_r", vmin=-widest, vmax=widest)
    axes[3].set_xticks([])
    axes[3].set_yticks([])
    axes[3].set_xlabel("where the anomaly map rose or fell")
    figure.colorbar(shown, ax=axes[3], shrink=0.85)
    if "embedding" in moved:
        frame(axes[3])
    figure.suptitle(text, fontsize=11, color=ALARM if result.drifted else "black")
    return figure


def histogram(axis: Axes, reference: NDArray[np.float64], batch: NDArray[np.float64], alarm: bool) -> None:
    """Both samples over common bins."""
    edges = np.histogram_bin_edges(np.concatenate([reference, batch]), BINS)
    for values, colour, label in ((reference, REFERENCE, "reference"), (batch, BATCH, "now")):
        shares = np.histogram(values, edges)[0] / len(values)
        axis.stairs(shares, edges, fill=True, alpha=0.45, color=colour, label=label)
        axis.stairs(shares, edges, color=colour)
    axis.spines[["top", "right"]].set_visible(False)
    if alarm:
        frame(axis)


def frame(axis: Axes) -> None:
    """A red frame: this raises the alarm."""
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color(ALARM)
        spine.set_linewidth(2)
