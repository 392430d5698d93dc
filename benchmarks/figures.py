"""`python -m benchmarks.figures`: draw the docs' figures from the results in `benchmarks/results`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.results import path_of, read

DOCS = Path("docs/images")
PANELS = (("ssim", "SSIM"), ("edge_iou", "Edge IoU"), ("lpips", "LPIPS"))


def tokenizer_curves(curves: dict[str, dict[str, Any]]) -> Figure:
    """Reconstruction of validation images against training images seen, one line per run.

    Args:
        curves: label -> {images seen -> {metric -> value}}.
    """
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for name, rows in curves.items():
            curve = sorted((int(seen), row[key]) for seen, row in rows.items())
            axes.plot(*zip(*curve, strict=True), marker="o", label=name)
        axes.set(xlabel="training images seen", title=label)
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__).parse_args()
    names = {"256 px": "tokenizer_256", "128 px": "tokenizer_128"}
    curves = {label: read(path_of(name)).details["curve"] for label, name in names.items()}
    path = DOCS / "tokenizer_curves.png"
    tokenizer_curves(curves).savefig(path, dpi=110)
    print(json.dumps({"figure": str(path)}))


if __name__ == "__main__":
    main()
