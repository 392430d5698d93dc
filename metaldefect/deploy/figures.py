"""Figures of an exported detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from metaldefect.deploy.bundle import graph_file


def accuracy_figure(accuracy: Mapping[str, Any], sizes: Mapping[str, int]) -> Figure:
    """Image AUROC and file size by precision."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
    names = list(accuracy)
    bars = left.bar(names, [accuracy[name].get("image_auroc", 0.0) for name in names], color="tab:blue")
    measured = all("image_auroc" in accuracy[name] for name in names)
    left.bar_label(bars, fmt="%.3f" if measured else "not measured")
    left.set(title="Image AUROC", ylim=(0, 1.1))
    megabytes = [sizes[Path(graph_file(name)).with_suffix(".bin").name] / 1e6 for name in names]
    bars = right.bar(names, megabytes, color="tab:orange")
    right.bar_label(bars, fmt="%.1f")
    right.set(title="Weights (MB)")
    right.margins(y=0.15)
    return figure
