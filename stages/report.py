"""Stage `report`: what the pipeline measured and drew, as one page that needs no network."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import atomic_file
from pipeline.params import Params
from pipeline.report import render_report
from pipeline.run import StageRun, run_stage

PAGE = Path("reports/index.html")


def main(params: Params, run: StageRun) -> None:
    """Write `reports/index.html` and log it."""
    page = render_report(Path(), params)
    with atomic_file(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    run.log_artifact(PAGE)


if __name__ == "__main__":
    run_stage("report", main)
