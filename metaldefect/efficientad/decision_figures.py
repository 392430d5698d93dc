"""Figures of a detector's decisions: what a threshold flags, misses and costs, and which images are wrong."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from metaldefect.efficientad.calibration import Scores
from metaldefect.efficientad.evaluation import Scored
from metaldefect.efficientad.thresholds import Target, expected_costs, percent, threshold_at_least_cost

HEAT = "inferno"
# The value to which the 0.995 quantile of normal pixels is scaled.
SMALLEST_CEILING = 0.1
GRID_POINTS = 400  # of a curve over thresholds
RATIOS = (1, 10, 100)  # costs of a miss in false alarms, where nobody has stated the costs
WORST = 4  # wrong images of a kind
NAME = 26  # characters of a file's name
CELL = 2.4  # inches


def threshold_figures(scores: Scores, threshold: float, target: Target) -> dict[str, Figure]:
    """What each threshold would do and cost, by file stem, from the calibration images alone.

    They exist without a single real defect; the costs need inserted ones.
    """
    figures = {"operating_points": operating_points_figure(scores, threshold)}
    if scores.defects:
        figures["expected_cost"] = expected_cost_figure(scores, threshold, target)
    return figures


def operating_points_figure(scores: Scores, threshold: float) -> Figure:
    """What each threshold would do: the shares of flagged good images and of missed inserted defects."""
    good, bad = np.sort(scores.normals), np.sort(scores.defects)
    grid = thresholds_to_draw(scores, threshold)
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    flagged = 1 - np.searchsorted(good, grid, side="right") / len(good)
    axes.plot(grid, flagged, color="tab:blue", label=f"good images flagged ({len(good)})")
    if len(bad):
        missed = np.searchsorted(bad, grid, side="right") / len(bad)
        axes.plot(grid, missed, color="tab:red", label=f"inserted defects missed ({len(bad)})")
    mark_threshold(axes, threshold)
    axes.set(xlabel="threshold", ylabel="share of the images", title="What each threshold would do")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    return figure


def expected_cost_figure(scores: Scores, threshold: float, target: Target) -> Figure:
    """Expected cost per image against the threshold, with the chosen one and the cheapest.

    Args:
        scores: of the calibration images, with at least one inserted defect.
        threshold: the chosen one.
        target: of the threshold; without costs, there is a curve for each of `RATIOS`.
    """
    good, bad = np.sort(scores.normals), np.sort(scores.defects)
    grid = thresholds_to_draw(scores, threshold)
    figure, axes = plt.subplots(figsize=(6.5, 4.8), layout="constrained")
    for number, (name, costs) in enumerate(cost_targets(target).items()):
        cheapest, cost = threshold_at_least_cost(good, bad, costs)
        label = f"{name}: cheapest at {cheapest:.3f}"
        drawn = np.sort(np.append(grid, cheapest))
        axes.plot(drawn, expected_costs(drawn, good, bad, costs), color=f"C{number}", label=label)
        axes.plot(cheapest, cost, color=f"C{number}", marker="o")
    mark_threshold(axes, threshold)
    unit = "" if target.costs else ", in false alarms"
    if not target.costs:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="threshold", ylabel=f"expected cost per image{unit}")
    counts = f"{len(good)} good images and {len(bad)} inserted defects"
    axes.set_title(
        "What each threshold would cost\n"
        f"if {percent(target.defect_share)} of the images show a defect, from {counts}",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=9)
    return figure


def cost_targets(target: Target) -> dict[str, Target]:
    """The stated costs, or some ratios of the two costs, each with its name for a legend."""
    if target.costs is not None:
        miss, false_alarm = target.costs
        return {f"{miss:g} per miss, {false_alarm:g} per false alarm": target}
    return {
        f"a miss costs {ratio} false alarm{'s' * (ratio > 1)}": Target(
            cost_miss=ratio, cost_false_alarm=1, defect_share=target.defect_share
        )
        for ratio in RATIOS
    }


def thresholds_to_draw(scores: Scores, threshold: float) -> NDArray[np.float64]:
    """Thresholds over the range of the scores, less the highest two percent, `[GRID_POINTS]`."""
    values = np.concatenate([scores.normals, scores.defects, [threshold]])
    low, high = float(values.min()), float(max(np.quantile(values, 0.98), threshold))
    return np.linspace(low - 0.02 * (high - low), high + 0.05 * (high - low), GRID_POINTS)


def mark_threshold(axes: Axes, threshold: float) -> None:
    """Draw the chosen threshold."""
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3f}")


def wrong_images_figure(scored: Sequence[Scored], threshold: float) -> Figure | None:
    """The defects furthest below the threshold and the good images furthest above it, up to `WORST` of each.

    Each with the outline of its mask, its heat map, and its score against the threshold; None if the detector
    is right on all images.
    """
    bad = [item for item in scored if item.is_defective]
    good = [item for item in scored if not item.is_defective]
    missed = sorted((item for item in bad if item.score <= threshold), key=lambda item: item.score)
    flagged = sorted((item for item in good if item.score > threshold), key=lambda item: -item.score)
    blocks = {
        f"{len(missed)} of {len(bad)} defects missed; lowest scores first": missed[:WORST],
        f"{len(flagged)} of {len(good)} good images flagged; highest scores first": flagged[:WORST],
    }
    blocks = {title: items for title, items in blocks.items() if items}
    if not blocks:
        return None
    height = sum(0.6 + 2 * (CELL * shape_of(items) + 0.25) for items in blocks.values())
    columns = max(2, *(len(items) for items in blocks.values()))
    figure = plt.figure(figsize=(columns * CELL + 1, height), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, squeeze=False)[:, 0]
    for part, (title, items) in zip(parts, blocks.items(), strict=True):
        draw_wrong(part, title, items, columns, threshold)
    return figure


def shape_of(items: Sequence[Scored]) -> float:
    """Height over width of the tallest image, at most 1.5."""
    return min(1.5, max(item.image.shape[0] / item.image.shape[1] for item in items))


def draw_wrong(part: SubFigure, title: str, items: Sequence[Scored], columns: int, threshold: float) -> None:
    """One column per image: the image above its heat map, whose brightest colour is the threshold."""
    part.suptitle(title, fontsize=12, fontweight="bold")
    grid = part.subplots(2, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    ceiling = max(threshold, SMALLEST_CEILING)
    for column, item in zip(grid.T, items, strict=False):
        column[0].imshow(item.image, cmap="gray", vmin=0, vmax=255)
        heat = column[1].imshow(item.anomaly_map, cmap=HEAT, vmin=0, vmax=ceiling)
        if item.mask.any():
            for axes in column:
                axes.contour(item.mask, [0.5], colors="lime", linewidths=1)
        name = item.name if len(item.name) <= NAME else f"…{item.name[1 - NAME :]}"
        column[0].set_title(name, fontsize=9)
        sign = ">" if item.score > threshold else "≤"
        column[1].set_title(f"score {item.score:.3f} {sign} threshold {threshold:.3f}", fontsize=9)
    bar = part.colorbar(heat, ax=grid[1], shrink=0.9, extend="max", pad=0.01)
    bar.set_label("anomaly map,\nup to the threshold", fontsize=9)
