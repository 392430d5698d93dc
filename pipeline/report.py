"""The report: everything the pipeline measured and drew, as one page that works offline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from metaldefect.artifacts import read_json
from metaldefect.errors import UserError
from metaldefect.metrics.directions import improvement
from pipeline.main_metrics import METRICS, formatted, main_metric, number
from pipeline.params import Params
from pipeline.report_figures import Figure, curves, figures
from pipeline.report_graph import StageEntry, draw_graph, stage_entries
from pipeline.report_tables import Table, tables

PLOTS = Path("plots")
# Metrics that a stage writes in addition to metrics/<stage>.json.
MORE_METRICS = {"evaluate_openvino": ("latency",)}


@dataclass(frozen=True)
class Headline:
    """A key number at the top of the page: a value, or a value compared with another.

    Attributes:
        file: `metrics/<file>.json`; `key` and `against` are dotted keys in it.
        against: the number to compare with, shown before the value.
        sense: what the arrow between the two numbers means.
    """

    label: str
    file: str
    key: str
    against: str = ""
    sense: str = "before → after"
    unit: str = ""


HEADLINES = (
    Headline("Images", "merge", "total"),
    Headline("Reconstruction SSIM", "evaluate_vq", "after.ssim", "before.ssim"),
    Headline("Reconstruction Edge IoU", "evaluate_vq", "after.edge_iou", "before.edge_iou"),
    Headline("Reconstruction KID", "evaluate_vq", "after.rkid", "before.rkid"),
    Headline(
        "Masked cross-entropy",
        "evaluate_maskgit",
        "masked_ce",
        "class_unigram",
        sense="class unigram → model",
        unit="nats",
    ),
    Headline(
        "Image AUROC",
        "evaluate_efficientad",
        "image_auroc",
        "memory_bank.image_auroc",
        sense="memory bank → detector",
    ),
    Headline(
        "AU-PRO",
        "evaluate_efficientad",
        "au_pro",
        "memory_bank.au_pro",
        sense="memory bank → detector",
    ),
    Headline("Latency, FP16, median", "latency", "fp16.p50_ms", unit="ms"),
)


@dataclass
class Section:
    """One stage's part of the page."""

    entry: StageEntry
    params: str
    measured: bool
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    curves: list[tuple[str, Markup]] = field(default_factory=list)


def headline(root: Path, item: Headline) -> dict[str, str]:
    """The texts of a key number; `value` is empty if the number has not been measured."""
    file = root / METRICS / f"{item.file}.json"
    content: Any = read_json(file) if file.is_file() else {}
    value, against = number(content, item.key), number(content, item.against)
    kind = ""
    if value is not None and against is not None and value != against:
        better = improvement(item.key, against, value)
        kind = "" if better is None else "good" if better > 0 else "bad"
    return {
        "label": item.label,
        "value": "" if value is None else formatted(value),
        "against": "" if against is None else formatted(against),
        "sense": item.sense if against is not None else "",
        "unit": item.unit,
        "kind": kind,
    }


def section(root: Path, entry: StageEntry, params: dict[str, Any]) -> Section:
    """The metrics, figures and curves that a stage wrote."""
    found: list[Table] = []
    file = root / METRICS / f"{entry.name}.json"
    measured = file.is_file()
    if measured:
        found += tables(read_json(file))
    for name in MORE_METRICS.get(entry.name, ()):
        more = root / METRICS / f"{name}.json"
        if more.is_file():
            found += tables({name: read_json(more)})
    folder = root / PLOTS / entry.name
    own = params.get(entry.name)
    return Section(
        entry=entry,
        params=yaml.safe_dump({entry.name: own}, sort_keys=False, allow_unicode=True) if own else "",
        measured=measured,
        tables=found,
        figures=figures(folder),
        curves=curves(folder),
    )


def render_report(root: Path, params: Params) -> str:
    """The page as HTML text; it names the stages that have not run.

    Raises:
        UserError: `dvc.yaml` is missing, or a metrics, figure or curve file cannot be read; the message
            names the file.
    """
    definition = root / "dvc.yaml"
    if not definition.is_file():
        raise UserError(f"{definition} does not exist: run from the project's root")
    values = params.model_dump(mode="json")
    entries = stage_entries(yaml.safe_load(definition.read_text(encoding="utf-8")), values)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        title=params.report.title,
        headlines=[headline(root, item) for item in HEADLINES],
        graph=draw_graph(entries, {entry.name: main_metric(root, entry.name) for entry in entries}),
        sections=[section(root, entry, values) for entry in entries if entry.name != "report"],
    )
