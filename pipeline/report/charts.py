"""Interactive charts: data and layout for Plotly, which the page contains. Numbers only, no drawing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from metaldefect.inspection.layout import GOOD
from pipeline.report.numbers import Metrics

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#8a919c"
SCORES = Path("plots/evaluate_efficientad/tables/scores.csv")
PRO = Path("plots/evaluate_efficientad/tables/pro_curve.csv")
BINS = 40


@dataclass(frozen=True)
class Chart:
    """A chart's title, and what Plotly draws as JSON; `wide` ones span the page."""

    title: str
    content: str
    wide: bool = False


def chart(title: str, traces: list[dict[str, Any]], layout: dict[str, Any], wide: bool = False) -> Chart:
    """A chart of Plotly traces."""
    return Chart(title, json.dumps({"data": traces, "layout": layout}, sort_keys=True), wide)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title}, **more}


def words(name: str) -> str:
    """A class's name as words."""
    return name.replace("_", " ")


def detector_charts(root: Path, metrics: Metrics, names: Mapping[str, str]) -> list[Chart]:
    """Scores, ROC and PRO of the test sets; none without defective images.

    `names` are the legend's names of the sets in the tables.
    """
    threshold = metrics.value("evaluate_efficientad", "threshold")
    if not (root / SCORES).is_file() or threshold is None:
        return []
    table = pd.read_csv(root / SCORES)
    if not ((table["label"] != GOOD) & table["set"].isin(names)).any():
        return []  # the stage's own histogram shows good images alone
    # Another method's scores have another scale: they share the curves but not the histogram
    charts = [score_chart(table[table["set"].isin(names)], threshold, names), roc_chart(table, names)]
    overlaps = pd.read_csv(root / PRO)
    return charts if overlaps.empty else [*charts, pro_chart(overlaps, names)]


def score_chart(table: pd.DataFrame, threshold: float, names: Mapping[str, str]) -> Chart:
    """Histogram of the scores of good images and of each set's defects, with the threshold."""
    scores = table["score"].to_numpy(float)
    low, high = float(scores.min()), max(float(np.quantile(scores, 0.98)), threshold)
    edges = np.linspace(low, high + 1e-6, BINS + 1)
    first = table["set"].iloc[0]
    groups = {"good": table[(table["set"] == first) & (table["label"] == GOOD)]}
    by_set = table.groupby("set", sort=False)
    groups |= {names.get(str(name), str(name)): rows[rows["label"] != GOOD] for name, rows in by_set}
    middles = ((edges[:-1] + edges[1:]) / 2).round(4).tolist()
    traces = []
    for (name, rows), colour in zip(groups.items(), (BLUE, RED, ORANGE), strict=False):
        counts, _ = np.histogram(np.clip(rows["score"], edges[0], edges[-1]), edges)
        label = f"{name} ({len(rows)})"
        bars = {"type": "bar", "name": label, "x": middles, "y": counts.tolist()}
        traces.append(bars | {"marker": {"color": colour}, "opacity": 0.75})
    line = {"type": "line", "x0": threshold, "x1": threshold, "yref": "paper", "y0": 0, "y1": 1}
    return chart(
        f"Scores, with the threshold at {threshold:.3f} (the last bin holds all higher scores)",
        traces,
        {
            "barmode": "overlay",
            "bargap": 0.05,
            "xaxis": axis("anomaly score"),
            "yaxis": axis("images"),
            "shapes": [line | {"line": {"color": GREY, "dash": "dash", "width": 2}}],
        },
        wide=True,
    )


def roc_chart(table: pd.DataFrame, names: Mapping[str, str]) -> Chart:
    """Image-level ROC, one curve per set that has both kinds of images."""
    traces = []
    for (name, rows), colour in zip(table.groupby("set", sort=False), (RED, ORANGE, GREY), strict=False):
        truth = rows["label"] != GOOD
        if truth.all() or not truth.any():
            continue
        false_alarms, found, levels = roc_curve(truth, rows["score"])
        texts = [f"score {level:.3f}" if np.isfinite(level) else "" for level in levels]
        points = {"x": false_alarms.round(5).tolist(), "y": found.round(5).tolist(), "text": texts}
        traces.append(line(names.get(str(name), str(name)), colour, **points))
    square = {"range": [-0.02, 1.02]}
    axes = {"xaxis": axis("false-alarm rate", **square), "yaxis": axis("detection rate", **square)}
    return chart("Image-level ROC", traces, axes)


def pro_chart(table: pd.DataFrame, names: Mapping[str, str]) -> Chart:
    """Mean overlap of the marked regions against false pixels, one curve per set."""
    traces = [
        line(
            names.get(str(name), str(name)),
            colour,
            x=rows["false_positive_rate"].round(4).tolist()[::4],
            y=rows["overlap"].round(4).tolist()[::4],
        )
        for (name, rows), colour in zip(table.groupby("set", sort=False), (RED, ORANGE, GREY), strict=False)
    ]
    axes = {"xaxis": axis("false-positive rate of the pixels"), "yaxis": axis("overlap", range=[-0.02, 1.02])}
    return chart("PRO curve: how exactly heat maps mark defects", traces, axes)


def line(name: str, colour: str, **points: Any) -> dict[str, Any]:
    """A line trace."""
    style = {"color": colour, "width": 2.5}
    return {"type": "scatter", "mode": "lines", "name": name, "line": style, **points}


def data_chart(metrics: Metrics) -> Chart | None:
    """Images per class, stacked by split."""
    splits = metrics.mapping("merge", "per_split_and_class")
    if not splits:
        return None
    classes = sorted(metrics.mapping("merge", "per_class"))
    colours = {"train": BLUE, "validation": PURPLE, "test": ORANGE}
    traces = [
        {
            "type": "bar",
            "name": split,
            "x": [words(name) for name in classes],
            "y": [splits[split].get(name, 0) for name in classes],
            "marker": {"color": colour},
        }
        for split, colour in colours.items()
        if split in splits
    ]
    return chart(
        "Images per class and split", traces, {"barmode": "stack", "yaxis": axis("images")}, wide=True
    )


def agreement_chart(metrics: Metrics) -> Chart | None:
    """Share of images that a classifier takes for their class: reconstructed and drawn ones, per class."""
    kinds = {
        "reconstructed test images": ("class_agreement_reconstruction", GREY),
        "drawn, kept by the selector": ("class_agreement", PURPLE),
        "drawn, independent classifier": ("class_agreement_independent", ORANGE),
    }
    traces = []
    for name, (key, colour) in kinds.items():
        shares = metrics.mapping("evaluate_synthesis", f"{key}.per_class")
        if shares:
            bars = {"x": [words(label) for label in shares], "y": [100 * value for value in shares.values()]}
            traces.append({"type": "bar", "name": name, "marker": {"color": colour}, **bars})
    if not traces:
        return None
    vertical = axis("recognised as their class, %", range=[0, 105])
    return chart("Which classes are recognised", traces, {"barmode": "group", "yaxis": vertical}, wide=True)


def calibration_chart(metrics: Metrics) -> Chart | None:
    """Validation AUROC of inserted defects for each weight of the student map; the chosen one is marked."""
    shares = metrics.mapping("calibrate", "map_weights.image_auroc_by_student_share")
    chosen = metrics.value("calibrate", "map_weights.student")
    if not shares or chosen is None:
        return None
    x, y = [float(share) for share in shares], list(shares.values())
    colours = [ORANGE if share == chosen else BLUE for share in x]
    trace = {"type": "scatter", "mode": "lines+markers", "x": x, "y": y, "line": {"color": BLUE}}
    trace |= {"marker": {"color": colours, "size": 11}}
    axes = {"xaxis": axis("share of the student-teacher map"), "yaxis": axis("image AUROC, validation")}
    return chart("Inserted defects choose how the maps are mixed (orange: chosen)", [trace], axes)


def latency_chart(metrics: Metrics) -> Chart | None:
    """Median and slow latency of each exported precision."""
    rows = {
        name: values
        for name, values in metrics.content("latency").items()
        if isinstance(values, Mapping) and "p50_ms" in values
    }
    if not rows:
        return None
    names = [name.upper() for name in rows]
    traces = [
        {
            "type": "bar",
            "name": label,
            "x": names,
            "y": [round(values[key], 2) for values in rows.values()],
            "marker": {"color": colour},
        }
        for label, key, colour in (("median", "p50_ms", BLUE), ("99 % of images", "p99_ms", GREY))
    ]
    return chart("Latency per image", traces, {"barmode": "group", "yaxis": axis("ms")})
