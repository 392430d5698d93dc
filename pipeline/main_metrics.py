"""The main metric of each stage: the one number to look at first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaldefect.artifacts import read_json
from pipeline.run import lookup

METRICS = Path("metrics")

# Stage -> (name of the number, its dotted key in metrics/<stage>.json).
MAIN_METRICS = {
    "sample": ("images", "total"),
    "merge": ("images", "total"),
    "augment": ("images", "total"),
    "finetune_vq": ("images seen", "images_seen"),
    "evaluate_vq": ("SSIM", "after.ssim"),
    "tokenize": ("codes used", "codes.used"),
    "train_maskgit": ("images seen", "images_seen"),
    "evaluate_maskgit": ("masked CE", "masked_ce"),
    "synthesize": ("images", "images"),
    "evaluate_synthesis": ("class agreement", "class_agreement_independent.mean"),
    "distill_teacher": ("held-out loss", "held_out_loss"),
    "train_efficientad": ("loss", "final_losses.loss"),
    "calibrate": ("threshold", "threshold.value"),
    "evaluate_efficientad": ("image AUROC", "image_auroc"),
    "evaluate_openvino": ("parity error", "parity.max_abs_error"),
}


def estimate(value: Any) -> tuple[Any, list[Any]] | None:
    """(number, its interval) of `{"mean" or "value": x, "low": a, "high": b}`.

    Returns None for any other value.
    """
    if not isinstance(value, Mapping) or not value.keys() <= {"mean", "value", "low", "high"}:
        return None
    centre = value.get("mean", value.get("value"))
    return None if centre is None else (centre, [value[key] for key in ("low", "high") if key in value])


def number(content: Any, key: str) -> float | None:
    """The number at a dotted key, without its interval, or None if there is none."""
    found = lookup(content, key)
    if (estimated := estimate(found)) is not None:
        found = estimated[0]
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def formatted(value: Any) -> str:
    """A value formatted for a reader: 12,345; 0.1235; 1.000; 1.2e-05; yes; a, b, c; none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        # Keep trailing zeros: 1.000 is a measured score, 1 is a count.
        digits = "#" if value == 0 or 1e-3 <= abs(value) < 1_000 else ""
        return f"{value:{digits},.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(formatted(item) for item in value) or "none"
    return str(value)


def main_metric(root: Path, stage: str) -> str:
    """The main metric as text, such as `images 2,659`.

    Empty if the stage has no main metric or has not been measured.
    """
    file = root / METRICS / f"{stage}.json"
    if stage not in MAIN_METRICS or not file.is_file():
        return ""
    name, key = MAIN_METRICS[stage]
    value = number(read_json(file), key)
    return "" if value is None else f"{name} {formatted(value)}"
