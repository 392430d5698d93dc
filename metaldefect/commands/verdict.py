"""The last lines of `metaldefect train`: what was measured, whether it pays, and what to type next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaldefect.commands.check import quoted
from metaldefect.efficientad.thresholds import percent


def verdict(metrics: Mapping[str, Any], output: Path) -> list[str]:
    """Three lines for the terminal."""
    return [
        f"quality:   {quality(metrics)}",
        f"which one: {metrics['memory_bank']['verdict']}",
        f"threshold: {next_step(metrics, output)}",
    ]


def quality(metrics: Mapping[str, Any]) -> str:
    """What the test images say; if they cannot say it, what the inserted defects do."""
    counts = metrics["images"]
    tested = f"{counts['good']} good and {counts['defective']} defective test images"
    if "image_auroc" in metrics:
        low, high = metrics["interval_95"]["image_auroc"]
        papers = f"the paper's score: {metrics['paper_score']['image_auroc']:.3f}"
        return (
            f"image AUROC {metrics['image_auroc']:.3f} ({low:.3f} to {high:.3f}; {papers})"
            f" on {tested}; the threshold finds {percent(metrics['detection_rate'])} of the defects and flags"
            f" {percent(metrics['false_alarm_rate'])} of the good images"
        )
    found = metrics["calibration"]["threshold"].get("inserted_defects_found")
    if found is None:
        return f"not measured: {tested}, and no good images to paint defects on"
    return f"on real defects not measured ({tested}); of painted defects the threshold finds {percent(found)}"


def next_step(metrics: Mapping[str, Any], output: Path) -> str:
    """How the threshold was chosen, what it rests on, and how to set another one."""
    threshold = metrics["calibration"]["threshold"]
    return (
        f"{threshold['method']}; {threshold['support']}; another:"
        f" metaldefect calibrate {quoted(output)} --false-alarms 5%"
    )
