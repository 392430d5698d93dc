"""What operators say about the live model: delayed metrics, and the hard cases for the next training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from metaldefect.artifacts import atomic_file, write_json
from metaldefect.deploy.feedback import read_feedback
from metaldefect.deploy.prediction_log import read_log
from metaldefect.metrics.live import LiveMetrics, Share, live_metrics

REPORTS = Path("reports/live")
METRICS = "metrics.json"
HARD_CASES = "hard_cases.csv"
CASE_COLUMNS = ["id", "kind", "score", "threshold", "margin", "time", "model_version", "note"]


@dataclass(frozen=True)
class LiveReport:
    """What the verdicts say.

    Attributes:
        metrics: by model version, the newest last.
        hard_cases: rows where operator and model differ, the widest margin first.
        verdicts: how many there are.
        unknown: ids of verdicts on images that the log does not hold.
    """

    metrics: dict[str, LiveMetrics]
    hard_cases: pd.DataFrame
    verdicts: int
    unknown: list[str]

    def __str__(self) -> str:
        lines = [f"{self.verdicts} verdicts, {len(self.hard_cases)} of them unlike the model's"]
        for version, found in self.metrics.items():
            lines.append(f"model {version}: of its alarms {share_in_words(found.confirmed)} were defects;")
            lines.append(f"  of what it passed and somebody checked, {share_in_words(found.missed)} were")
        if self.unknown:
            shown = ", ".join(self.unknown[:5]) + (", ..." if len(self.unknown) > 5 else "")
            lines.append(f"{len(self.unknown)} verdicts name images that the log does not hold: {shown}")
        return "\n".join(lines)


def collect(root: Path, log: Path, table: Path | None = None) -> LiveReport:
    """Join verdicts with the log and write `reports/live`.

    Args:
        root: the project's folder.
        log: folder of the service's log, which also holds what `/feedback` received.
        table: CSV file with the columns id and verdict.

    Raises:
        UserError: the table cannot be read.
    """
    verdicts = read_feedback(log, table)
    # A part that was scored again counts once, by its last score
    scored = read_log(log).drop_duplicates("id", keep="last")
    joined = scored.merge(verdicts, on="id")
    metrics = {
        str(version): live_metrics(rows["is_anomalous"].to_numpy(bool), rows["defective"].to_numpy(bool))
        for version, rows in joined.groupby("model_version", sort=False)
    }
    unknown = sorted(set(verdicts["id"]) - set(joined["id"]))
    report = LiveReport(metrics, hard_cases(joined), len(verdicts), unknown)
    folder = root / REPORTS
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / METRICS, as_dict(report))
    with atomic_file(folder / HARD_CASES) as temporary:
        report.hard_cases.to_csv(temporary, index=False)
    return report


def hard_cases(joined: pd.DataFrame) -> pd.DataFrame:
    """Rows that the operator decides otherwise; `margin` is how far the score lies on the wrong side."""
    wrong = joined[joined["is_anomalous"].astype(bool) != joined["defective"].astype(bool)].copy()
    wrong["kind"] = ["missed defect" if defective else "false alarm" for defective in wrong["defective"]]
    wrong["margin"] = (wrong["score"] - wrong["threshold"]).abs()
    return wrong.sort_values("margin", ascending=False, ignore_index=True)[CASE_COLUMNS]


def share_in_words(share: Share) -> str:
    """`4 of 5 (80 %, 28 to 99 %)`."""
    if share.value is None or share.low is None or share.high is None:
        return "none"
    return (
        f"{share.count} of {share.of} ({100 * share.value:.0f} %, {100 * share.low:.0f} to"
        f" {100 * share.high:.0f} %)"
    )


def as_dict(report: LiveReport) -> dict[str, Any]:
    """The numbers for a JSON file."""
    return {
        "verdicts": report.verdicts,
        "hard_cases": len(report.hard_cases),
        "unknown": report.unknown,
        "models": {version: found.as_dict() for version, found in report.metrics.items()},
    }


def table_of(report: LiveReport) -> str:
    """The metrics as a Markdown table."""
    lines = ["| model | alarms that were defects | passed parts that were defects |", "|---|---|---|"]
    for version, found in report.metrics.items():
        lines.append(f"| {version} | {share_in_words(found.confirmed)} | {share_in_words(found.missed)} |")
    return "\n".join(lines)
