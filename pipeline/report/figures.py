"""A stage's figures and curves as parts of one HTML file: data URIs and inline SVG."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from metaldefect.errors import UserError
from pipeline.report.pictures import figure_picture

MAX_POINTS = 400
FEW_POINTS = 40
GREY = "#8a919c"
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#eab308")
SPLITS = ("train_", "validation_", "test_", "val_")


@dataclass(frozen=True)
class Figure:
    """A stage's figure as a data URI; `name` is its file's stem, and a `wide` one spans the page."""

    name: str
    caption: str
    source: str
    width: int
    height: int
    wide: bool


def figures(folder: Path, scale: float = 1.0) -> list[Figure]:
    """All PNG files of a folder, sorted by name and shrunk by `scale`.

    Raises:
        UserError: a file is not a readable image.
    """
    found = []
    for path in sorted(folder.glob("*.png")):
        picture = figure_picture(path, caption(path), scale)
        wide = picture.width > 900 * scale or picture.width > 1.7 * picture.height
        found.append(Figure(path.stem, caption(path), picture.source, picture.width, picture.height, wide))
    return found


def caption(path: Path) -> str:
    """A file name as a caption: `score_histogram.png` -> `Score histogram`."""
    text = path.stem.replace("_", " ")
    return text[:1].upper() + text[1:]


def curves(folder: Path) -> list[tuple[str, Markup]]:
    """(caption, SVG) of every CSV file of a folder; the first column is the x axis, one panel per quantity.

    Raises:
        UserError: a file holds a cell that is not a number, or has no rows.
    """
    return [(caption(path), draw_curves(*read_columns(path))) for path in sorted(folder.glob("*.csv"))]


def read_columns(path: Path) -> tuple[str, list[float], dict[str, list[float]]]:
    """(x name, x, columns) of a CSV file; an empty cell becomes NaN and is not drawn.

    Raises:
        UserError: the file holds a cell that is not a number, or has no rows.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        raise UserError(f"{path} has no rows: run its stage again")
    try:
        table = {
            name: [float(row[name]) if row[name] else math.nan for row in rows] for name in rows[0] if name
        }
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: every cell must be a number ({error})") from error
    x_name = "step" if "step" in table else next(iter(table))
    return x_name, table.pop(x_name), table


def panels(names: list[str]) -> dict[str, list[str]]:
    """Group columns that share a panel: `train_loss` and `validation_loss` under `loss`."""
    grouped: dict[str, list[str]] = {}
    for name in names:
        prefix = next((split for split in SPLITS if name.startswith(split)), "")
        grouped.setdefault(name.removeprefix(prefix), []).append(name)
    return grouped


def thinned(x: list[float], y: list[float]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` of the points whose y is a number, always including the last."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    every = max(1, math.ceil(len(points) / MAX_POINTS))
    return [*points[:-1:every], *points[-1:]] or [(math.nan, math.nan)]


def draw_curves(x_name: str, x: list[float], columns: dict[str, list[float]]) -> Markup:
    """Small multiples as SVG text; equal numbers give equal bytes.

    The colours are readable on light and dark pages; the background is transparent.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    grouped = panels(list(columns))
    across = min(3, len(grouped))
    down = math.ceil(len(grouped) / max(across, 1))
    style: dict[Any, Any] = {
        "svg.hashsalt": "metaldefect",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": GREY,
        "axes.edgecolor": GREY,
        "axes.labelcolor": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": GREY,
        "ytick.color": GREY,
    }
    with mpl.rc_context(style):
        canvas = Canvas(figsize=(3.5 * across, 2.2 * down), layout="constrained")
        canvas.patch.set_alpha(0)
        for place, (title, names) in enumerate(grouped.items(), 1):
            axes = canvas.add_subplot(down, across, place)
            axes.patch.set_alpha(0)
            axes.grid(color=GREY, alpha=0.2, linewidth=0.6)
            for colour, name in zip(COLOURS * len(names), names, strict=False):
                points = thinned(x, columns[name])
                marker = "o" if len(points) <= FEW_POINTS else None
                axes.plot(
                    *zip(*points, strict=True), color=colour, linewidth=1.4, marker=marker, markersize=3
                )
            axes.set_title(title.replace("_", " "), fontsize=10, loc="left")
            axes.set_xlabel(x_name)
            if len(names) > 1:
                axes.legend(frameon=False, fontsize=8, labels=[name.replace("_", " ") for name in names])
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Drawings on one page must not share ids: the second drawing's `#m1` would resolve to the first's.
    mark = re.sub(r"\W", "", f"{x_name}{len(x)}{''.join(columns)}")
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    return Markup(re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S))
