"""What a pipeline run did: one row per stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.main_metrics import main_metric


@dataclass(frozen=True)
class StageResult:
    """How a stage ended.

    Attributes:
        state: Completed, Restored, Unchanged, Failed, Cancelled or Skipped.
        seconds: wall time of its `dvc repro`; 0 if none started.
        detail: why a failed stage failed.
    """

    stage: str
    state: str
    seconds: float = 0.0
    detail: str = ""


def table(root: Path, results: Iterable[StageResult]) -> list[dict[str, str]]:
    """The rows of the table artifact."""
    return [
        {
            "stage": result.stage,
            "state": result.state,
            "seconds": f"{result.seconds:.1f}",
            "main metric": main_metric(root, result.stage),
        }
        for result in results
    ]


def as_text(rows: list[dict[str, str]]) -> str:
    """The table with aligned columns, for a terminal."""
    if not rows:
        return "no stages"
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def cause(stage: str, lines: Sequence[str]) -> str:
    """Why a stage failed, out of the end of its output.

    DVC's own last line says only that the command failed. Before it stands the stage's message, which may
    have several lines, or the last line of a traceback.
    """
    said = list(lines)
    while said and said[-1].startswith("ERROR: failed to reproduce"):
        reason = said.pop().partition(f"'{stage}': ")[2]
        if reason and not reason.startswith("failed to run"):
            return reason
    starts = [index for index, line in enumerate(said) if line.startswith(f"{stage}: ")]
    return "\n".join(said[starts[-1] :] if starts else said[-1:]) or "it printed nothing"
