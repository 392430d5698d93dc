"""Figures of a tokenizer: reconstructions, edge maps, worst cases, and quality during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metaldefect.figures import image_grid
from metaldefect.images import U8
from metaldefect.metrics.reconstruction import edges


def reconstruction_figures(
    images: U8, before: U8, after: U8, table: pd.DataFrame, ssim_after: Sequence[float]
) -> dict[str, Figure]:
    """Original, before and after: the first image of each class, its edges, and the four worst."""
    labels = table["label"].to_numpy(str)
    first = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    worst = np.argsort(ssim_after)[:4].tolist()
    return {
        "reconstructions_original_before_after": triples(images, before, after, first, labels),
        "edge_maps_original_before_after": triples(
            edge_images(images), edge_images(before), edge_images(after), first, labels
        ),
        "worst_cases_original_before_after": triples(images, before, after, worst, labels),
    }


def triples(original: U8, before: U8, after: U8, chosen: Sequence[int], labels: NDArray[np.str_]) -> Figure:
    """Rows of original, before and after."""
    rows = [[original[i], before[i], after[i]] for i in chosen]
    return image_grid(rows, [str(labels[i]) for i in chosen], ["original", "before", "after"], cell=1.8)


def edge_images(images: U8) -> U8:
    """Canny edges as white on black."""
    return np.stack([edges(image).astype(np.uint8) * 255 for image in images])


def curve_figure(rows: Sequence[dict[str, float]]) -> Figure:
    """SSIM and both kinds of Edge IoU of validation images, plotted against training images seen."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    seen = [row["images_seen"] for row in rows]
    for name, label in (("ssim", "SSIM"), ("edge_iou", "Edge IoU"), ("edge_iou_1px", "Edge IoU, 1 px")):
        axes.plot(seen, [row[name] for row in rows], marker="o", label=label)
    axes.set(xlabel="training images seen", ylabel="validation images", ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure
