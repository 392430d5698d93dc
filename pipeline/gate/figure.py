"""The verdict as a picture: what differs, every score, and the images that the two decide otherwise."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from metaldefect.deploy.runtime import Detector, overlay
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import InspectionImages
from metaldefect.metrics.comparison import DetectorScores, Difference
from pipeline.gate.decision import GAINS, NOT_WORSE, WORDS, Verdict
from pipeline.gate.measure import seen_by
from pipeline.gate.settings import Gate

if TYPE_CHECKING:
    from pipeline.gate.run import Comparison

COLOURS = {"PROMOTE": "#0f6d40", "HOLD": "#8a5a00", "REJECT": "#b3341f"}
CHAMPION, CHALLENGER, GREY = "#566072", "#1f5fbf", "#8a919c"
SHOWN_IMAGES = 6
SHOWN_ROWS = 16


def refusal_figure(verdict: Verdict) -> Figure:
    """The verdict about a bundle that cannot be measured."""
    figure = plt.figure(figsize=(11, 2.2))
    headline(figure, verdict, "the bundle is refused", 0.8)
    return figure


def verdict_figure(verdict: Verdict, compared: Comparison, gate: Gate) -> Figure:
    """The whole picture; without a champion there are no differences to draw."""
    new, old = compared.challenger, compared.champion
    rows = difference_rows(compared.differences)
    height = max(3.6, 1.2 + 0.28 * len(rows))
    images = 0.5 + 1.75 * (2 if old is None else 3)
    shares = [1.1, height, images]
    figure = plt.figure(figsize=(12, sum(shares)))
    top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=shares).ravel()
    title = f"challenger {new.version}" + (
        f" against champion {old.version}" if old else ", the first detector"
    )
    headline(top, verdict, title, 0.72)
    if rows:
        left, right = middle.subplots(1, 2, width_ratios=[1.15, 1], gridspec_kw=margins(0.24))
        draw_differences(left, rows, gate)
    else:
        right = middle.subplots(1, 1, gridspec_kw=margins(0.12))
    draw_scores(right, compared.images.labels, new.scores, old.scores if old else None)
    draw_images(bottom, compared)
    return figure


def margins(left: float) -> dict[str, float]:
    """Space around the charts, in shares of the figure."""
    return {"left": left, "right": 0.97, "bottom": 0.16, "top": 0.9, "wspace": 0.3}


def headline(figure: Figure | SubFigure, verdict: Verdict, title: str, top: float) -> None:
    """Verdict, versions and reason, in words."""
    figure.text(
        0.03,
        top,
        verdict.decision,
        fontsize=24,
        fontweight="bold",
        color=COLOURS[verdict.decision],
        va="center",
    )
    figure.text(0.19, top, title, fontsize=13, va="center", color="#1c2430")
    reason = textwrap.fill(verdict.reason, 140, max_lines=3, placeholder=" ...")
    figure.text(0.03, top - 0.3, reason, fontsize=10.5, va="top", color="#1c2430", linespacing=1.4)


def difference_rows(differences: dict[str, Difference]) -> list[tuple[str, Difference, bool]]:
    """(label, difference, whether it is of one type), overall first; the worst types if there are many."""
    overall = [(WORDS[name], differences[name], False) for name in dict.fromkeys((*GAINS, *NOT_WORSE))
               if name in differences]  # fmt: skip
    types = [
        (f"{kind}: {WORDS[metric]}", item, True)
        for name, item in differences.items()
        for metric, _, kind in [name.partition("/")]
        if kind
    ]
    types.sort(key=lambda row: row[1].low)
    return overall + types[: SHOWN_ROWS - len(overall)]


def draw_differences(axes: Axes, rows: list[tuple[str, Difference, bool]], gate: Gate) -> None:
    """Intervals of challenger minus champion, with each one's margin of non-inferiority."""
    for place, (_, item, is_type) in enumerate(rows):
        margin = gate.margins.per_type if is_type else gate.margins.overall
        colour = COLOURS["REJECT"] if item.value < -margin else CHALLENGER
        if item.value >= -margin and item.low < -margin:
            colour = COLOURS["HOLD"]
        if item.low > 0:
            colour = COLOURS["PROMOTE"]
        axes.plot([-margin, -margin], [place - 0.4, place + 0.4], color=COLOURS["REJECT"], linewidth=1.2)
        axes.plot([item.low, item.high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([item.value], [place], "o", color=colour, markersize=5)
    axes.axvline(0, color=GREY, linewidth=0.8)
    reach = 1.5 * max(gate.margins.per_type, gate.margins.overall, 0.01)
    low, high = (
        pick(getattr(item, end) for _, item, _ in rows) for pick, end in ((min, "low"), (max, "high"))
    )
    axes.set_xlim(min(1.05 * low, -reach), max(1.05 * high, reach))
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlabel("challenger minus champion; red tick: the margin it must stay right of", fontsize=9)
    axes.set_title(f"Differences with {gate.bootstrap.confidence:.0%} intervals", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def draw_scores(axes: Axes, labels: tuple[str, ...], new: DetectorScores, old: DetectorScores | None) -> None:
    """Every image's score minus the detector's own threshold, per label."""
    kinds = sorted(set(labels), key=lambda kind: (kind != GOOD, kind))
    names = np.asarray(labels)
    rng = np.random.default_rng(0)
    drawn = [("champion", old, CHAMPION, -0.17), ("challenger", new, CHALLENGER, 0.17)]
    for name, detector, colour, offset in drawn:
        if detector is None:
            continue
        distance = detector.scores - detector.threshold
        for place, kind in enumerate(kinds):
            values = distance[names == kind]
            jitter = rng.uniform(-0.1, 0.1, len(values))
            axes.plot(values, place + offset + jitter, ".", color=colour, alpha=0.6, markersize=5,
                      label=name if place == 0 else None)  # fmt: skip
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("score minus own threshold: right of the line is an alarm", fontsize=9)
    axes.set_title("Every image of the holdout", fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def draw_images(figure: SubFigure, compared: Comparison) -> None:
    """The images that the detectors decide otherwise, else those nearest to the threshold."""
    new, old = compared.challenger.scores, compared.champion.scores if compared.champion else None
    chosen, why = choose(new, old)
    named = (("champion", compared.detectors[1]), ("challenger", compared.detectors[0]))
    found = [(name, detector) for name, detector in named if detector is not None]
    space = {"left": 0.1, "right": 0.97, "bottom": 0.02, "top": 0.88, "wspace": 0.05, "hspace": 0.08}
    grid = figure.subplots(1 + len(found), len(chosen), squeeze=False, gridspec_kw=space)
    figure.suptitle(why, fontsize=11, x=0.03, ha="left")
    for column, index in enumerate(chosen):
        item = compared.images[index]
        grid[0, column].imshow(item.image, cmap="gray", vmin=0, vmax=255)
        grid[0, column].set_title(item.name, fontsize=8)
        for row, (_, detector) in enumerate(found, 1):
            draw_verdict(grid[row, column], compared.images, index, detector)
    for row, name in enumerate(["image", *(name for name, _ in found)]):
        grid[row, 0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])


def draw_verdict(axes: Axes, images: InspectionImages, index: int, detector: Detector) -> None:
    """A heat map in a frame whose colour says whether the decision is right."""
    item = images[index]
    image = seen_by(detector, item)
    detection = detector.predict(image)
    right = detection.is_anomalous == (item.label != GOOD)
    axes.imshow(overlay(image, detection.anomaly_map, detector.threshold))
    axes.text(
        0.03, 0.04, f"{'alarm' if detection.is_anomalous else 'passes'} {detection.score:.2f}", fontsize=7.5,
        color="white", transform=axes.transAxes,
        bbox={"facecolor": COLOURS["PROMOTE" if right else "REJECT"], "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def choose(new: DetectorScores, old: DetectorScores | None) -> tuple[list[int], str]:
    """Indices of the images to show, and why these."""
    nearness = np.abs(new.scores - new.threshold)
    if old is not None:
        changed = np.flatnonzero(new.alarms != old.alarms)
        if len(changed):
            order = changed[np.argsort(-np.abs(new.scores - old.scores)[changed], kind="stable")]
            return order[:SHOWN_IMAGES].tolist(), f"Decided otherwise: {len(changed)} images (green: right)"
    nearest = np.argsort(nearness, kind="stable")[:SHOWN_IMAGES]
    same = "All images are decided alike. " if old is not None else ""
    return nearest.tolist(), f"{same}Nearest to the threshold (green: right)"
