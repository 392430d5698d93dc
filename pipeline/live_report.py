"""What operators say about the live model: delayed metrics, and the hard cases for the next training."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaldefect.artifacts import atomic_file, read_json, write_json
from metaldefect.deploy.feedback import read_feedback
from metaldefect.deploy.frame_store import file_stem, kept_frame
from metaldefect.deploy.prediction_log import read_log
from metaldefect.inspection.layout import GOOD
from metaldefect.metrics.live import LiveMetrics, Share, live_metrics
from pipeline.inbox import INBOX

REPORTS = Path("reports/live")
METRICS = "metrics.json"
HARD_CASES = "hard_cases.csv"
FALSE_ALARM, MISSED = "false alarm", "missed defect"
SENT = "sent.json"  # ids whose photographs were sent to the inbox
CASE_COLUMNS = [
    "id", "kind", "score", "threshold", "margin", "time", "model_version", "label", "note", "photograph",
]  # fmt: skip


@dataclass(frozen=True)
class LiveReport:
    """What the verdicts say.

    Attributes:
        metrics: by model version, the newest last.
        hard_cases: rows where operator and model differ, the widest margin first.
        verdicts: how many there are.
        unknown: ids of verdicts on images that the log does not hold.
        sent: number of photographs of hard cases that were sent to the inbox.
        unnamed: number of photographs of missed defects of which nobody said the class.
    """

    metrics: dict[str, LiveMetrics]
    hard_cases: pd.DataFrame
    verdicts: int
    unknown: list[str]
    sent: int = 0
    unnamed: int = 0

    def __str__(self) -> str:
        lines = [f"{self.verdicts} verdicts, {len(self.hard_cases)} of them unlike the model's"]
        for version, found in self.metrics.items():
            lines.append(f"model {version}: of its alarms {share_in_words(found.confirmed)} were defects;")
            lines.append(f"  of what it passed and somebody checked, {share_in_words(found.missed)} were")
        if self.sent:
            lines.append(f"{self.sent} photographs of hard cases sent to the inbox")
        if self.unnamed:
            lines.append(f"{self.unnamed} missed defects have no label, so their photographs wait")
        if self.unknown:
            shown = ", ".join(self.unknown[:5]) + (", ..." if len(self.unknown) > 5 else "")
            lines.append(f"{len(self.unknown)} verdicts name images that the log does not hold: {shown}")
        return "\n".join(lines)


def collect(root: Path, log: Path, table: Path | None = None) -> LiveReport:
    """Join verdicts with the log, write `reports/live`, and send photographs of hard cases to the inbox.

    Args:
        root: the project's folder.
        log: folder of the service's log, which also holds what `/feedback` received.
        table: CSV file with the columns id and verdict (see `read_feedback`).

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
    cases = hard_cases(joined, log)
    folder = root / REPORTS
    folder.mkdir(parents=True, exist_ok=True)
    sent, unnamed = send_photographs(cases, root / INBOX, folder / SENT)
    report = LiveReport(metrics, cases, len(verdicts), unknown, sent, unnamed)
    write_json(folder / METRICS, as_dict(report))
    with atomic_file(folder / HARD_CASES) as temporary:
        report.hard_cases.to_csv(temporary, index=False)
    return report


def hard_cases(joined: pd.DataFrame, log: Path) -> pd.DataFrame:
    """Rows that the operator decides otherwise, with their photographs where those are kept or named.

    `margin` is how far the score lies on the wrong side.
    """
    wrong = joined[joined["is_anomalous"].astype(bool) != joined["defective"].astype(bool)].copy()
    wrong["kind"] = [MISSED if defective else FALSE_ALARM for defective in wrong["defective"]]
    wrong["margin"] = (wrong["score"] - wrong["threshold"]).abs()
    wrong["photograph"] = [
        path or str(kept_frame(log, name) or "")
        for name, path in zip(wrong["id"], wrong["path"], strict=True)
    ]
    return wrong.sort_values("margin", ascending=False, ignore_index=True)[CASE_COLUMNS]


def send_photographs(cases: pd.DataFrame, inbox: Path, record: Path) -> tuple[int, int]:
    """Copy the photographs of hard cases into the inbox, in the folder of what they show, each once.

    Returns:
        How many were copied, and how many wait because nobody named the class of the missed defect.
    """
    sent = set(read_json(record)) if record.is_file() else set()
    is_there = [bool(path) and Path(path).is_file() for path in cases["photograph"]]
    found = cases[np.array(is_there, bool) & ~cases["id"].isin(sent)]
    false_alarm = found["kind"] == FALSE_ALARM
    ready = found[false_alarm | (found["label"] != "")]
    for case in ready.to_dict("records"):
        photograph = Path(case["photograph"])
        label = GOOD if case["kind"] == FALSE_ALARM else case["label"]
        place = inbox / label / f"live-{file_stem(case['id'])}{photograph.suffix.lower()}"
        with atomic_file(place) as temporary:
            shutil.copyfile(photograph, temporary)
        write_json(record, sorted(sent := sent | {case["id"]}))
    return len(ready), len(found) - len(ready)


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
