"""Tables of `python -m benchmarks.edge` for the docs: goals with what was measured, and all speeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.results import Figure, Interval
from metaldefect.deploy.bundle import PRECISIONS
from pipeline.main_metrics import formatted

QUANTILES = ("p50_ms", "p95_ms", "p99_ms")
HINTS = ("LATENCY", "THROUGHPUT")


class Goal(NamedTuple):
    """A limit that a figure should keep.

    Attributes:
        figure: its name in the result.
        words: what it says.
        limit: the lowest value that is good enough, or the highest if `is_highest`.
        is_highest: whether lower values are better.
    """

    figure: str
    words: str
    limit: float
    is_highest: bool = False

    def is_met_by(self, value: float) -> bool:
        """Whether a value keeps the limit."""
        return value <= self.limit if self.is_highest else value >= self.limit


GOALS = (
    Goal("int8_over_eager_fp32", "speed of INT8 over torch eager FP32", 8.0),
    Goal("fp32_over_eager_fp32", "speed of FP32 over torch eager FP32", 1.5),
    Goal("int8_over_anomalib_ir", "speed of INT8 over anomalib's IR in its default precision", 2.5),
    Goal("p99_over_p50_int8", "INT8: 99th percentile of the latency over its median", 1.5, True),
    Goal("matmul_share_int8", "INT8: rate over that of a 2048³ matrix product", 0.4),
)


def goals_table(figures: Mapping[str, Figure]) -> list[str]:
    """One row per goal: what is asked, what was measured, and whether that is enough."""
    lines = ["| goal | asked | measured | met |", "|---|---|---|---|"]
    for goal in GOALS:
        asked = f"{'at most' if goal.is_highest else 'at least'} {goal.limit:g}"
        figure = figures.get(goal.figure)
        if figure is None:
            lines.append(f"| {goal.words} | {asked} | not measured | – |")
        else:
            value = figure.value if isinstance(figure, Interval) else figure
            met = "yes" if goal.is_met_by(value) else "**no**"
            lines.append(f"| {goal.words} | {asked} | {formatted(value)} | {met} |")
    return lines


def speeds_table(details: Mapping[str, Any]) -> list[str]:
    """One row per number of threads, precision and hint.

    Args:
        details: of the result: `threads`, by number, precision and hint. What was not measured is a dash.
    """
    lines = [
        "| threads | precision | hint | model: 50 %, 95 %, 99 % (ms) | PNG to verdict (ms) | images/s |",
        "|---|---|---|---|---|---|",
    ]
    for threads, found in sorted(details["threads"].items(), key=lambda item: int(item[0])):
        for precision in PRECISIONS:
            for hint in HINTS:
                numbers = found[precision].get(hint, {})
                cells = [in_milliseconds(numbers.get(path)) for path in ("graph", "whole_path")]
                rate = formatted(numbers.get("images_per_s"))
                lines.append(f"| {' | '.join([threads, precision.upper(), hint, *cells, rate])} |")
    return lines


def in_milliseconds(latencies: Mapping[str, float] | None) -> str:
    """Median, 95 % and 99 % of latencies; a dash for none."""
    return "–" if latencies is None else ", ".join(f"{latencies[name]:.1f}" for name in QUANTILES)


def execution_line(details: Mapping[str, Any]) -> str | None:
    """What each precision computed in, as a sentence; None where a result does not say.

    Args:
        details: of a result. They name it by precision in `execution`, or within each precision's numbers,
            which may lie within `threads`.
    """
    threads = details.get("threads")
    numbers = threads[max(threads, key=int)] if isinstance(threads, Mapping) else details
    named = [name for name in PRECISIONS if "execution" in numbers.get(name, {})]
    found = details.get("execution") or {name: numbers[name]["execution"] for name in named}
    words = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8's float layers"}
    computed = [f"{words[name]} in {found[name]}" for name in PRECISIONS if name in found]
    return f"Inference precision on this CPU: {', '.join(computed)}." if computed else None
