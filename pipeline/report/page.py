"""The report: everything the pipeline measured and drew, as one page that works offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from metaldefect.artifacts import read_json
from metaldefect.errors import UserError
from metaldefect.metrics.directions import improvement
from metaldefect.rerun import has_repro_target, repro_command
from pipeline.main_metrics import METRICS, formatted, main_metric, number
from pipeline.params import Params
from pipeline.profiles import OWN
from pipeline.report import charts, evidence
from pipeline.report.answer import QUESTION, answer, left_out, weaknesses
from pipeline.report.facts import Facts, Previous, metric_changes, setting_changes
from pipeline.report.figures import Figure, curves, figures
from pipeline.report.graph import StageEntry, draw_graph, stage_entries
from pipeline.report.numbers import Metrics, share
from pipeline.report.pictures import (
    Picture,
    class_pictures,
    edge_picture,
    figure_picture,
    insertion_pictures,
)
from pipeline.report.tables import Table, tables

FOLDER = Path(__file__).parent
PLOTS = Path("plots")
LARGEST = 10_000_000  # bytes of a page, so that a mail takes it and a phone opens it
SMALLEST_SCALE = 0.1  # of pictures: smaller ones show nothing
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
    is_share: bool = False


HEADLINES = (
    Headline("Images", "merge", "total"),
    Headline("Reconstruction SSIM", "evaluate_vq", "after.ssim", "before.ssim"),
    Headline("Reconstruction KID", "evaluate_vq", "after.rkid", "before.rkid"),
    Headline(
        "Drawn images taken for their class",
        "evaluate_synthesis",
        "class_agreement_independent.mean",
        is_share=True,
    ),
    Headline("Trained on drawn images: accuracy", "evaluate_synthesis", "cas.accuracy", is_share=True),
    Headline(
        "Detector, image AUROC",
        "evaluate_efficientad",
        "image_auroc",
        "memory_bank.image_auroc",
        sense="memory bank → detector",
    ),
    Headline(
        "Detector, AU-PRO",
        "evaluate_efficientad",
        "au_pro",
        "memory_bank.au_pro",
        sense="memory bank → detector",
    ),
    Headline("Latency, FP16, median", "latency", "fp16.p50_ms", unit="ms"),
)

# Figures of the stages that the story shows; the stage's own part of the page leaves them out.
RECONSTRUCTIONS = ("evaluate_vq", "reconstructions_original_before_after")
WORST_RECONSTRUCTIONS = ("evaluate_vq", "worst_cases_original_before_after")
HEAT_MAPS = ("evaluate_efficientad", "heat_maps_best_median_worst")
FOUND = ("evaluate_efficientad", "from_good_metal_to_a_found_defect")
WRONG = ("evaluate_efficientad", "wrong_images")
OPERATING = ("evaluate_efficientad", "operating_points")
COST = ("evaluate_efficientad", "expected_cost")
HISTOGRAM = ("evaluate_efficientad", "score_histogram")
TOLD = {
    RECONSTRUCTIONS,
    WORST_RECONSTRUCTIONS,
    HEAT_MAPS,
    FOUND,
    WRONG,
    OPERATING,
    COST,
    HISTOGRAM,
    ("evaluate_synthesis", "real_and_drawn_per_class"),
    ("evaluate_synthesis", "inserted_defects"),
    ("evaluate_efficientad", "roc"),
    ("evaluate_efficientad", "pro_curve"),
}


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
    text = share if item.is_share else formatted
    return {
        "label": item.label,
        "value": "" if value is None else text(value),
        "against": "" if against is None else formatted(against),
        "sense": item.sense if against is not None else "",
        "unit": item.unit,
        "kind": kind,
    }


def section(root: Path, entry: StageEntry, params: dict[str, Any], scale: float) -> Section:
    """The metrics, figures and curves that a stage wrote; figures are shrunk by `scale`."""
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
        figures=[figure for figure in figures(folder, scale) if (entry.name, figure.name) not in TOLD],
        curves=curves(folder),
    )


def told_picture(root: Path, scale: float, figure: tuple[str, str], text: str) -> Picture | None:
    """A figure that a stage drew, shrunk by `scale`, or None if it drew none."""
    path = root / PLOTS / figure[0] / f"{figure[1]}.png"
    return figure_picture(path, text, scale) if path.is_file() else None


def story(root: Path, facts: Facts, scale: float) -> dict[str, Any]:
    """What the page shows before the stages' details, by name; pictures are shrunk by `scale`."""
    metrics = Metrics(root)
    real = "procedural" if facts.procedural else "real"
    sets = {"test defects": f"{real} test defects", "generated defects": "drawn defects, inserted"}
    merged, synthetic = root / "data/merged", root / "data/synthetic"
    told = partial(told_picture, root, scale)
    detector_charts = charts.detector_charts(root, metrics, sets)
    return {
        "answer": answer(metrics, facts.procedural),
        "data_table": evidence.data_table(metrics),
        "data_chart": charts.data_chart(metrics),
        "reconstruction_table": evidence.reconstruction_table(metrics),
        "reconstructions": told(RECONSTRUCTIONS, "Test images: original, before, after"),
        "worst": told(WORST_RECONSTRUCTIONS, "Worst test images: original, before, after"),
        "pairs": class_pictures(merged, synthetic, scale=scale),
        "insertions": insertion_pictures(synthetic, scale=scale),
        "usefulness_table": evidence.usefulness_table(metrics),
        "usefulness_charts": [
            item for item in (charts.agreement_chart(metrics), charts.calibration_chart(metrics)) if item
        ],
        "detector_table": evidence.detector_table(metrics),
        "bank_verdict": metrics.mapping("evaluate_efficientad", "memory_bank").get("verdict", ""),
        "type_table": evidence.type_table(metrics),
        "detector_charts": detector_charts,
        "histogram": None if detector_charts else told(HISTOGRAM, "Scores and the threshold"),
        "wrong": told(WRONG, "Worst misses and worst false alarms: image, heat map and score"),
        "operating": told(OPERATING, "Good images flagged and inserted defects missed at each threshold"),
        "cost": told(COST, "Expected cost per image at each threshold, with the chosen one"),
        "found": told(FOUND, "Good metal, drawn defect, exact mask and heat map of each class"),
        "heat_maps": told(HEAT_MAPS, "Best, median and worst test defect: image, truth, heat map"),
        "export_table": evidence.export_table(metrics),
        "latency_chart": charts.latency_chart(metrics),
        "edge_chart": edge_picture(root, scale),
        "latency_machine": metrics.content("latency").get("machine", ""),
        "weaknesses": weaknesses(metrics),
        "left_out": left_out(
            metrics, ["evaluate_vq", "evaluate_maskgit", "evaluate_synthesis", "evaluate_efficientad"]
        ),
    }


def script(name: str) -> Markup:
    """A JavaScript file of this folder, as the content of a `script` element."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return Markup(text.replace("</script", "<\\/script"))


def rerun_command(root: Path, profile: str) -> str:
    """The command that makes a page again in its project's folder."""
    if not has_repro_target(root):
        return repro_command(root)
    if profile == OWN:  # `make repro` would overwrite params.yaml with a profile
        return ".venv/bin/python -m dvc repro      # with your params.yaml"
    return f"{repro_command(root)} PROFILE={profile}"


def page_template() -> Template:
    """The page's template."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2")


def within(largest: int, page: Callable[[float], str]) -> str:
    """A page with pictures as large as fit into so many bytes; projects of many classes get smaller ones.

    Args:
        largest: bytes of the page.
        page: renders it with pictures shrunk by a factor.
    """
    scale = 1.0
    while True:
        text = page(scale)
        size = len(text.encode("utf-8"))
        if size <= largest or scale <= SMALLEST_SCALE:
            return text
        # Bytes grow with a picture's area
        scale = max(SMALLEST_SCALE, 0.95 * scale * math.sqrt(largest / size))


def render_report(
    root: Path,
    params: Params,
    facts: Facts,
    previous: Previous | None = None,
    headline_numbers: Mapping[str, float] | None = None,
) -> str:
    """The page as HTML text; it names the stages that have not run.

    Args:
        root: folder of the pipeline run.
        params: its settings.
        facts: where its numbers come from.
        previous: the run to compare it with, if there is one.
        headline_numbers: this run's numbers to compare, as in `metrics/headline.json`.

    Raises:
        UserError: `dvc.yaml` is missing, or a metrics, figure or curve file cannot be read; the message
            names the file.
    """
    definition = root / "dvc.yaml"
    if not definition.is_file():
        raise UserError(f"{definition} does not exist: run from the project's root")
    values = params.model_dump(mode="json")
    entries = stage_entries(yaml.safe_load(definition.read_text(encoding="utf-8")), values)
    parts = {
        "title": params.report.title,
        "question": QUESTION,
        "facts": facts,
        "again": rerun_command(root, facts.profile),
        "previous": previous,
        "metric_changes": metric_changes(previous, headline_numbers or {}) if previous else [],
        "setting_changes": setting_changes(previous, params) if previous else [],
        "headlines": [headline(root, item) for item in HEADLINES],
        "graph": draw_graph(entries, {entry.name: main_metric(root, entry.name) for entry in entries}),
        "plotly": script("plotly-basic.min.js"),
    }
    stages = [entry for entry in entries if entry.name != "report"]

    def page(scale: float) -> str:
        sections = [section(root, entry, values, scale) for entry in stages]
        return page_template().render(sections=sections, **parts, **story(root, facts, scale))

    return within(LARGEST, page)
