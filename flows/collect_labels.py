"""The flow `collect-labels`: operators' verdicts give the live model's metrics and the hard cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, State

from pipeline.live_report import collect, table_of

TIMEOUT_SECONDS = 600


@flow(name="collect-labels", timeout_seconds=TIMEOUT_SECONDS, persist_result=False)
def collect_labels(root: str = ".", log: str = "scores", table: str | None = None) -> State[Any]:
    """Join verdicts with the service's log.

    Args:
        root: the project's folder; `reports/live` in it receives `metrics.json` and `hard_cases.csv`.
        log: folder that the service writes with `--log`; it also holds what `/feedback` received.
        table: CSV file with the columns id and verdict (good or defect).

    Returns:
        A completed state named Measured, or Empty if there are no verdicts.
    """
    folder = Path(root).resolve()
    report = collect(folder, folder / log, folder / table if table else None)
    get_run_logger().info("%s", report)
    if report.metrics:
        text = f"{table_of(report)}\n\nHard cases: {len(report.hard_cases)}, in reports/live/hard_cases.csv"
        create_markdown_artifact(
            key="live", markdown=text, description="The live model by operators' verdicts"
        )
    first, *_ = str(report).splitlines()
    return Completed(name="Measured" if report.verdicts else "Empty", message=first)
