"""`python -m benchmarks.figures`: the figures of the docs that are drawn from `benchmarks/results`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from metaldefect.artifacts import read_json

RESULTS = Path("benchmarks/results")
DOCS = Path("docs/images")
PANELS = (("ssim", "SSIM"), ("edge_iou", "Edge IoU"), ("lpips", "LPIPS"))


def tokenizer_curves(results: dict[str, dict[str, Any]]) -> Figure:
    """Reconstruction of validation images against training images seen, one line a run."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for name, result in results.items():
            curve = sorted((int(seen), row[key]) for seen, row in result["tokenizer"]["curve"].items())
            axes.plot(*zip(*curve, strict=True), marker="o", label=name)
        axes.set(xlabel="training images seen", title=label)
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    names = {"256 px": "real", "128 px": "real128"}
    results = {label: read_json(RESULTS / f"{name}.json") for label, name in names.items()}
    tokenizer_curves(results).savefig(DOCS / "tokenizer_curves.png", dpi=110)


if __name__ == "__main__":
    main()
