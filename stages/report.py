"""Stage `report`: everything the pipeline measured and drew, as one page that works offline."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from metaldefect.artifacts import atomic_directory, atomic_file, read_json, write_json
from metaldefect.efficientad.figures import loss_figure
from metaldefect.figures import save_figures
from metaldefect.ingest.figures import merge_figures
from metaldefect.procedural.figures import sample_figures
from pipeline.headline import headline_metrics
from pipeline.params import Params
from pipeline.parent import describe_parent
from pipeline.report.facts import collect_facts, previous_run, record
from pipeline.report.page import render_report
from pipeline.run import StageRun, run_stage

PAGE = Path("reports/index.html")
HEADLINE = Path("metrics/headline.json")
PLOTS = Path("plots")


def main(params: Params, run: StageRun) -> None:
    """Write `reports/index.html`, the headline metrics, and figures for the stages that draw none."""
    for stage, figures in data_figures(params).items():
        with atomic_directory(PLOTS / stage) as folder:
            save_figures(figures, folder)
        run.log_figures(figures)
    headline = headline_metrics(Path())
    write_json(HEADLINE, headline)
    run.log_metrics(headline)
    facts = collect_facts(params)
    page = render_report(Path(), params, facts, previous_run(run), headline)
    with atomic_file(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    run.log_artifact(PAGE)
    record(run, facts)
    describe_parent(run.parent_id)


def data_figures(params: Params) -> dict[str, dict[str, Figure]]:
    """Figures of what the data stages and the distillation wrote.

    They are drawn here so that changing a figure does not rerun the data stages.
    """
    teacher = read_json("metrics/distill_teacher.json")
    table = pd.read_csv("models/teacher/losses.csv")
    history = [
        {"step": float(s), "loss": float(x)} for s, x in zip(table["step"], table["loss"], strict=True)
    ]
    losses = loss_figure(history, teacher.get("held_out_loss"), teacher["random_pdn"].get("loss"))
    found = {
        "merge": merge_figures(Path("data/merged")),
        "distill_teacher": {"distillation_loss": losses},
    }
    if params.sample is not None:
        found["sample"] = sample_figures(Path("data/sample"))
    return found


if __name__ == "__main__":
    run_stage("report", main)
