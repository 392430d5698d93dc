"""Figures of a scored test set: curves, histogram, heat maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from metaldefect.efficientad.decision_figures import (
    HEAT,
    SMALLEST_CEILING,
    mark_threshold,
    wrong_images_figure,
)
from metaldefect.efficientad.evaluation import Scored, pro_points
from metaldefect.figures import close_up
from metaldefect.images import U8
from metaldefect.inspection.layout import GOOD
from metaldefect.metrics.detection import FPR_LIMIT, auroc

VALIDATION = f"{GOOD}, validation"
STEPS_RANGE = 0.65, 0.9  # that every curve against steps shows at least
KINDS = {GOOD: "tab:blue", "defective": "tab:red", VALIDATION: "tab:green"}


def roc_figure(groups: Mapping[str, Sequence[Scored]]) -> Figure:
    """Image-level ROC curves, one per test set."""
    figure, axes = square_axes("false-alarm rate", "detection rate", "Image-level ROC")
    for name, scored in groups.items():
        scores = [item.score for item in scored]
        labels = [item.is_defective for item in scored]
        fpr, tpr, _ = roc_curve(labels, scores)
        axes.plot(fpr, tpr, label=f"{name}: AUROC {auroc(scores, labels):.3f}")
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="chance")
    axes.legend(loc="lower right")
    return figure


def pro_figure(groups: Mapping[str, Sequence[Scored]]) -> Figure:
    """Per-region overlap curves up to AU-PRO's limit, one per test set."""
    figure, axes = square_axes("pixel false-positive rate", "mean overlap of the regions", "PRO curve")
    for name, scored in groups.items():
        if (points := pro_points(scored)) is not None:
            grid, overlap, area = points
            axes.plot(grid, overlap, label=f"{name}: AU-PRO {area:.3f}")
    axes.set_xlim(0, FPR_LIMIT)
    axes.legend(loc="lower right")
    return figure


def loss_figure(history: Sequence[dict[str, float]], held_out: float | None, random: float | None) -> Figure:
    """Loss against steps, with the held-out losses if given; without a history, only the held-out losses."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    if not history and held_out is not None and random is not None:
        bars = axes.bar(["teacher", "random network"], [held_out, random], color=["tab:green", "0.6"])
        axes.bar_label(bars, fmt="%.3f")
        axes.set(ylabel="mean squared error", title="Loss of the shipped teacher on images of this run")
        axes.margins(y=0.15)
        return figure
    axes.plot([row["step"] for row in history], [row["loss"] for row in history], label="training")
    if held_out is not None and random is not None:
        axes.axhline(held_out, color="tab:green", linestyle="--", label=f"held out {held_out:.3f}")
        axes.axhline(random, color="0.6", linestyle=":", label=f"random network {random:.3f}")
    axes.set(xlabel="step", ylabel="mean squared error", title="Distillation of the teacher", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def training_figure(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Each loss of a training against its steps; `losses` are the columns that the training wrote."""
    names = [name for name in losses if name != "step"]
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for name in names:
        axes.plot(losses["step"], losses[name], label=name, linewidth=2 if name == "loss" else 1)
    axes.set(xlabel="step", ylabel="loss", title="Training of the detector", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def map_weight_figure(aurocs: Mapping[str, float], chosen: float) -> Figure:
    """Image AUROC of inserted defects for each share of the student-teacher map; marks the chosen share."""
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    axes.plot([float(share) for share in aurocs], list(aurocs.values()), marker="o")
    axes.axvline(chosen, color="black", linestyle="--", label=f"chosen: {chosen:g}")
    axes.set(
        xlabel="share of the student-teacher map",
        ylabel="image AUROC, validation",
        title="Inserted defects choose the map weights",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def validation_curve_figure(points: Sequence[Mapping[str, float]], kept: int | None) -> Figure:
    """Image AUROC of painted defects against the training steps; marks the state that was kept."""
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    axes.plot([row["step"] for row in points], [row["image_auroc"] for row in points], marker="o")
    if kept is not None:
        axes.axvline(kept, color="black", linestyle="--", label=f"kept: step {kept}")
        axes.legend()
    axes.set(xlabel="training step", ylabel="image AUROC, painted defects", title="Validation while training")
    axes.set_ylim(min(0.5, *(row["image_auroc"] for row in points)) - 0.02, 1.02)
    axes.grid(alpha=0.3)
    return figure


def detector_figures(
    groups: Mapping[str, Sequence[Scored]],
    threshold: float,
    bank: Sequence[Scored] = (),
    normals: Sequence[float] = (),
) -> dict[str, Figure]:
    """ROC, PRO curve and score histogram of all test sets, heat maps of each, and wrong images, by file stem.

    The first test set's heat maps have the plain name; others are prefixed with the set's first word. Sets
    without both good and defective images are left out; without any other set, there are only the histogram
    and the first set's wrong images.

    Args:
        groups: test images by name of the set, scored with the detector.
        threshold: scores above it are anomalous.
        bank: the first set scored with a memory bank, which adds a line to the two curves.
        normals: scores of the validation normals, for the histogram where no set has both kinds of images.
    """
    first = next(iter(groups.values()), ())
    wrong = wrong_images_figure(first, threshold)
    figures = {} if wrong is None else {"wrong_images": wrong}
    both = {name: scored for name, scored in groups.items() if len(scores_by_kind(scored)) == 2}
    if not both:
        alone: dict[str, list[float]] = scores_by_kind(first) | (
            {VALIDATION: list(normals)} if normals else {}
        )
        panels = {"test and validation images": alone} if alone else {}
        return figures | ({"score_histogram": histogram_figure(panels, threshold)} if panels else {})
    curves = dict(both) | ({"memory bank, no training": bank} if bank else {})
    figures |= {
        "roc": roc_figure(curves),
        "pro_curve": pro_figure(curves),
        "score_histogram": histogram_figure(
            {name: scores_by_kind(scored) for name, scored in both.items()}, threshold
        ),
    }
    for number, (name, scored) in enumerate(both.items()):
        kind = f"{name.split()[0]}_" if number else ""
        figures[f"heat_maps_{kind}best_median_worst"] = heat_map_figure(scored, threshold)
    return figures


def steps_figure(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
    metric: str,
    levels: Mapping[str, float],
) -> Figure:
    """A metric against training steps: per kind of training a thick line for the mean, a thin one per run.

    Args:
        curves: runs of each kind; a run is a list of rows with `step` and the metric. The mean covers steps
            that all runs of a kind have.
        metric: for example `image_auroc`.
        levels: the metric of detectors that do not train, by name, as horizontal lines.
    """
    figure, axes = plt.subplots(figsize=(6.5, 4.8), layout="constrained")
    for number, (name, runs) in enumerate(curves.items()):
        colour = f"C{number}"
        values = [{row["step"]: row[metric] for row in run} for run in runs]
        if len(runs) > 1:
            for run in values:
                axes.plot(list(run), list(run.values()), color=colour, linewidth=0.8, alpha=0.5)
        shared = [step for step in values[0] if all(step in run for run in values)] if values else []
        mean = [float(np.mean([run[step] for run in values])) for step in shared]
        kind = f"{name}: mean of {len(runs)} seeds" if len(runs) > 1 else name
        axes.plot(shared, mean, color=colour, marker="o", markersize=4, linewidth=2.5, label=kind)
    for number, (name, level) in enumerate(levels.items()):
        axes.axhline(level, color=f"C{len(curves) + number}", linestyle="--", label=f"{name}: {level:.3f}")
    title = metric.replace("_", " ").replace("auroc", "AUROC").replace("au pro", "AU-PRO")
    axes.set(xlabel="training step", ylabel=title, title=f"{title} while training", xscale="log")
    steps = sorted({row["step"] for runs in curves.values() for run in runs for row in run})
    axes.set_xticks(steps, [f"{step:,.0f}" for step in steps])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, STEPS_RANGE[0]), max(high, STEPS_RANGE[1]))  # pictures side by side compare
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center")
    return figure


def square_axes(x_label: str, y_label: str, title: str) -> tuple[Figure, Axes]:
    """An empty figure for a curve in the unit square."""
    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    axes.set(xlabel=x_label, ylabel=y_label, title=title, ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return figure, axes


def scores_by_kind(scored: Sequence[Scored]) -> dict[str, list[float]]:
    """Scores of the good and of the defective images; a kind without images is left out."""
    kinds = {
        kind: [item.score for item in scored if item.is_defective == (kind != GOOD)]
        for kind in (GOOD, "defective")
    }
    return {kind: scores for kind, scores in kinds.items() if scores}


def histogram_figure(groups: Mapping[str, Mapping[str, Sequence[float]]], threshold: float) -> Figure:
    """Scores with the threshold, one panel per set; extreme scores go into the end bins.

    Args:
        groups: by set and then by kind of image (of `KINDS`), at least one score each.
        threshold: scores above it are anomalous.
    """
    figure, rows = plt.subplots(
        len(groups), 1, figsize=(6.5, 3 * len(groups)), layout="constrained", squeeze=False
    )
    for axes, (name, kinds) in zip(rows[:, 0], groups.items(), strict=True):
        low, high = np.quantile(np.concatenate([*kinds.values(), [threshold]]), [0.0, 0.98])
        bins = np.linspace(low, max(high, threshold, low + 1e-6), 41)
        for kind, scores in kinds.items():
            axes.hist(
                np.clip(scores, low, bins[-1]),
                bins,
                weights=np.full(len(scores), 1 / len(scores)),
                alpha=0.6,
                label=f"{kind} ({len(scores)})",
                color=KINDS[kind],
            )
        mark_threshold(axes, threshold)
        axes.set(title=f"Scores, {name}", xlabel="anomaly score", ylabel="share of the images")
        axes.legend()
    return figure


def heat_map_figure(scored: Sequence[Scored], threshold: float) -> Figure:
    """Defective images with the highest, the median and the lowest score: image, truth, heat map."""
    ranked = sorted((item for item in scored if item.is_defective), key=lambda item: (item.score, item.name))
    chosen = [("best", ranked[-1]), ("median", ranked[len(ranked) // 2]), ("worst", ranked[0])]
    good = [item.anomaly_map.max() for item in scored if not item.is_defective]
    # All scores of a barely trained detector can be below 0, where the colours begin.
    middle = float(np.median([item.anomaly_map.max() for item in ranked]))
    ceiling = max(2 * threshold, middle, *good, SMALLEST_CEILING)
    figure, grid = plt.subplots(3, 3, figsize=(8, 8), layout="constrained")
    for row, (rank, item) in zip(grid, chosen, strict=True):
        row[0].imshow(item.image, cmap="gray", vmin=0, vmax=255)
        row[0].set_title(f"{rank}: {item.label}", fontsize=9)
        row[1].imshow(item.image, cmap="gray", vmin=0, vmax=255)
        if item.mask.any():
            row[1].contour(item.mask, [0.5], colors="lime", linewidths=1)
        row[1].set_title("truth" if item.mask.any() else "truth (no mask)", fontsize=9)
        heat = row[2].imshow(item.anomaly_map, cmap=HEAT, vmin=0, vmax=ceiling)
        row[2].set_title(
            f"score {item.score:.3f}, {'found' if item.score > threshold else 'missed'}", fontsize=9
        )
        for axes in row:
            axes.set_axis_off()
    figure.colorbar(heat, ax=grid[:, 2], shrink=0.6, label="anomaly map", panchor=False)
    return figure


def insertion_figure(scored: Sequence[Scored], canvases: Iterable[U8], threshold: float) -> Figure:
    """From good metal to a found defect, one class per column, close up.

    Of each class's insertions it shows the one with the median score: neither the best nor the worst.

    Args:
        scored: inserted defects.
        canvases: the image that each was inserted into, grey `uint8 [H, W]` or colour `[H, W, 3]`.
        threshold: of the scores.
    """
    ranked = sorted(range(len(scored)), key=lambda number: scored[number].score)
    chosen: dict[str, int] = {}
    for label in dict.fromkeys(item.label for item in scored):
        own = [number for number in ranked if scored[number].label == label]
        chosen[label] = own[len(own) // 2]
    pairs = enumerate(zip(scored, canvases, strict=True))
    before = {number: canvas for number, (_, canvas) in pairs if number in chosen.values()}
    ceiling = max(2 * threshold, SMALLEST_CEILING)
    figure, grid = plt.subplots(
        4, len(chosen), figsize=(1.75 * len(chosen) + 0.6, 7.5), layout="constrained", squeeze=False
    )
    for column, (label, number) in zip(grid.T, chosen.items(), strict=True):
        item = scored[number]
        window = close_up(item.mask)
        image, mask = item.image[window], item.mask[window]
        for axes, view in zip(column[:3], (before[number][window], image, image), strict=True):
            axes.imshow(view, cmap="gray", vmin=0, vmax=255)
        if mask.any() and not mask.all():
            column[2].contour(mask, [0.5], colors="red", linewidths=1)
        heat = column[3].imshow(item.anomaly_map[window], cmap=HEAT, vmin=0, vmax=ceiling)
        column[0].set_title(label.replace("_", " "), fontsize=11)
        verdict, sign = ("found", ">") if item.score > threshold else ("missed", "≤")
        column[3].set_xlabel(f"{verdict}: {item.score:.2f} {sign} {threshold:.2f}", fontsize=10)
    for axes, name in zip(grid[:, 0], ("good metal", "drawn defect", "its mask", "detector"), strict=True):
        axes.set_ylabel(name, fontsize=11)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    figure.colorbar(heat, ax=grid[3, :], shrink=0.9, aspect=12, pad=0.01)
    return figure
