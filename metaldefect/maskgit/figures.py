"""Figures of MaskGIT: cross-entropies, token use, and images drawn with given weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from metaldefect.figures import bars, image_grid
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.painter import Painter

# Sampling settings of the figures' images; `synthesize` has its own
SAMPLING = SamplingConfig(steps=16, guidance=2.0, temperature=1.0)
SAMPLES_PER_CLASS = 4


def cross_entropy_figure(metrics: Mapping[str, Any]) -> Figure:
    """Cross-entropy per mask ratio for the true label, none and a wrong one, with both unigram baselines."""
    ratios = {
        f"mask {ratio}": {name: row[name] for name in ("true", "null", "wrong") if name in row}
        | {"class unigram": metrics["class_unigram"], "unigram": metrics["unigram"]}
        for ratio, row in metrics["per_ratio"].items()
    }
    return bars(ratios, "nats")


def entropy_figure(entropy_per_class: Mapping[str, float]) -> Figure:
    """Entropy of token frequencies, one bar per class."""
    return bars(
        {name: {"entropy": value} for name, value in entropy_per_class.items()}, "token entropy, nats"
    )


def class_samples(painter: Painter, seed: int) -> Figure:
    """A few images of each class, always from the same random numbers."""
    numbers = range(SAMPLES_PER_CLASS)
    rows = [
        list(painter.sample(torch.full((SAMPLES_PER_CLASS,), label), numbers, SAMPLING, seed))
        for label in range(len(painter.classes))
    ]
    return image_grid(rows, painter.classes)


def curve_figure(rows: Sequence[Mapping[str, float]], unigram: float, class_unigram: float) -> Figure:
    """Cross-entropy of validation tokens, plotted against training images seen."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    seen = [row["images_seen"] for row in rows]
    for name, label in (("ce_true", "true label"), ("ce_null", "no label"), ("ce_wrong", "wrong label")):
        if name in rows[0]:
            axes.plot(seen, [row[name] for row in rows], marker="o", label=label)
    axes.axhline(unigram, color="0.6", linestyle=":", label="unigram")
    axes.axhline(class_unigram, color="0.4", linestyle="--", label="class unigram")
    axes.set(xlabel="training images seen", ylabel="masked cross-entropy, nats")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure
