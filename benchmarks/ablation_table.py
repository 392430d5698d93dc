"""What `benchmarks.ablation` reports: a row per variant, as a table and as flat figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.results import with_interval

if TYPE_CHECKING:
    from benchmarks.ablation_variants import Variant  # imports torch, which a table does not need


def describe(variant: Variant) -> dict[str, Any]:
    """A variant's own columns in its row of the table."""
    hardware = {"METALDEFECT_PRECISION": variant.precision} if variant.precision else {}
    return {
        "variant": variant.name,
        "question": variant.question,
        "trains": variant.trains,
        "overrides": dict(variant.overrides) | hardware,
    }


def figures(trained_metrics: dict[str, Any], quality: dict[str, Any]) -> dict[str, Any]:
    """The figures of a variant in the table."""
    manifold = quality["manifold"]["synthetic"]
    return {
        "ce_true": trained_metrics["ce_true"],
        "ce_below_class_unigram": trained_metrics["ce_below_class_unigram"],
        "ce_wrong_minus_true": trained_metrics["ce_wrong_minus_true"],
        "class_agreement": quality["class_agreement"],
        "kid": quality["kid"]["synthetic"],
        "kid_interval_95": quality["kid"]["interval_95"]["synthetic"],
        "kid_ratio": quality["kid"]["ratio"],
        "cas_ratio": quality["cas"]["ratio"],
        "precision": manifold["precision"]["mean"],
        "recall": manifold["recall"]["mean"],
        "density": manifold["density"]["mean"],
        "coverage": manifold["coverage"]["mean"],
    }


COLUMNS = {
    "ce_below_class_unigram": "CE below class unigram",
    "ce_wrong_minus_true": "CE wrong − true",
    "class_agreement": "class agreement",
    "kid": "KID",
    "kid_ratio": "KID / tokenizer's",
    "cas_ratio": "CAS ratio",
    "precision": "precision",
    "coverage": "coverage",
}


def cell(value: Any) -> str:
    """Format a figure as `0.912` or `0.912 (0.89-0.93)`."""
    if isinstance(value, Mapping):
        return f"{value['mean']:.3f} ({value['low']:.2f}-{value['high']:.2f})"
    return f"{value:.3f}"


def settings(about: Mapping[str, Any]) -> str:
    """What all variants of a run have in common, in a sentence."""
    return (
        f"Every training runs {about['steps']} steps of {about['batch_size']} images, "
        f"with size `{about['size']}` and seed {about['seed']}. "
        f"Every variant draws {about['images_per_class']} images per class; brackets are 95 % intervals."
    )


def markdown(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """The report: both tables, and how to repeat each row in the pipeline."""
    run = f"One run of `{about['command']}` on {about['machine']}. {settings(about)}"
    return "\n".join(["# v1 against v2, one choice at a time", "", run, *tables(rows, about)]) + "\n"


def tables(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> list[str]:
    """The lines of both tables under their headings."""
    lines = []
    drawing = f"## Sampling, with weights that have seen {about['sampling_images_seen']:,} images"
    for title, trains in (("## Training", True), (drawing, False)):
        chosen = [found for found in rows if found["trains"] == trains]
        if not chosen:
            continue
        lines += ["", title, ""]
        lines.append("| | " + " | ".join(COLUMNS.values()) + " | `dvc exp run` with |")
        lines.append("|---" * (len(COLUMNS) + 2) + "|")
        for found in chosen:
            changes = " ".join(
                f"`{key}={value}`" if key.isupper() else f"`-S {key}={str(value).lower()}`"
                for key, value in found["overrides"].items()
            )
            cells = [cell(found[key]) for key in COLUMNS]
            lines.append(f"| {found['variant']} | " + " | ".join(cells) + f" | {changes} |")
    return lines


def figures_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The table's columns as flat figures, named `<column>_<variant>`."""
    flat: dict[str, Any] = {}
    for row in rows:
        variant = re.sub(r"[^a-z0-9]+", "_", row["variant"].lower()).strip("_")
        for name in COLUMNS:
            flat[f"{name}_{variant}"] = (
                with_interval(row[name]) if isinstance(row[name], Mapping) else row[name]
            )
    return flat
