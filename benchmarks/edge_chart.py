"""The chart of `python -m benchmarks.edge`: every runtime's latency, and the machine's limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, OTHERS, LIMIT = "#1f77b4", "#9aa5b1", "#d9e2ec"
# From the slowest to the fastest, as a rule
NAMES = {
    "torch_eager_fp32": "torch, eager FP32",
    "anomalib_eager_fp32": "anomalib, eager FP32",
    "onnxruntime_fp32": "onnxruntime, FP32",
    "anomalib_ir_fp32": "anomalib's IR, FP32",
    "anomalib_ir_default": "anomalib's IR, default",
    "fp32": "this IR, FP32",
    "fp16": "this IR, FP16",
    "int8": "this IR, INT8",
}
PRECISIONS = ("fp32", "fp16", "int8")


def edge_chart(details: Mapping[str, Any], machine: str) -> Figure:
    """Latencies with the most threads, and GFLOP/s beside those of a matrix product.

    Args:
        details: of the result: `size`, `threads` and `matmul_gflops`.
        machine: its name.
    """
    most = max(details["threads"], key=int)
    found = details["threads"][most]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[1.7, 1], layout="constrained")
    draw_latencies(left, found)
    draw_limits(right, found, details["matmul_gflops"])
    padding = "padded" if details["padding"] else "unpadded"
    title = f"EfficientAD-S, {details['size']} px, {padding}, {most} threads of {machine}"
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def draw_latencies(axes: Axes, found: Mapping[str, Any]) -> None:
    """One bar per runtime up to the median, with a whisker to 99 %."""
    rows = [(name, words) for name, words in NAMES.items() if name in found]
    for place, (name, words) in enumerate(reversed(rows)):
        own = name in PRECISIONS
        numbers = found[name]["LATENCY"]["graph"] if own else found[name]
        median, slow = numbers["p50_ms"], numbers["p99_ms"]
        # Of an INT8 graph it is only that of the few layers that stay unquantised
        execution = None if name == "int8" else found[name].get("execution")
        axes.barh(place, median, color=OURS if own else OTHERS, height=0.7)
        axes.plot([median, slow], [place, place], color="#243b53", linewidth=1.5)
        axes.plot([slow, slow], [place - 0.15, place + 0.15], color="#243b53", linewidth=1.5)
        axes.text(slow, place, f"  {median:.0f} ms", va="center", fontsize=9)
        axes.text(
            0,
            place,
            f"{words} ({execution})  " if execution else f"{words}  ",
            va="center",
            ha="right",
            fontsize=9,
        )
    axes.set_yticks([])
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms per frame: median, and 99 % within the whisker", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)


def draw_limits(axes: Axes, found: Mapping[str, Any], limits: Mapping[str, float]) -> None:
    """GFLOP/s of each precision in front of the matrix product's."""
    for place, name in enumerate(PRECISIONS):
        rate = limits["gflop"] * 1000 / found[name]["LATENCY"]["graph"]["p50_ms"]
        axes.bar(
            place, limits[name], color=LIMIT, width=0.7, label="2048³ matrix product" if place == 0 else None
        )
        axes.bar(place, rate, color=OURS, width=0.45, label="detector" if place == 0 else None)
        axes.text(place, rate, f"{rate / limits[name]:.0%}", ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(PRECISIONS)), [name.upper() for name in PRECISIONS])
    axes.set_ylabel("GFLOP/s", fontsize=9)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.margins(y=0.2)
    axes.spines[["top", "right"]].set_visible(False)
