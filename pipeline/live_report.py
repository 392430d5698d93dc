"""What operators say about the live model: delayed metrics, and the hard cases for the next training."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from metaldefect.artifacts import atomic_file, read_json, write_json
from metaldefect.deploy.feedback import read_feedback
from metaldefect.deploy.frame_store import file_stem, kept_frame
from metaldefect.deploy.prediction_log import read_log
from metaldefect.errors import printable
from metaldefect.ingest.arrivals import find_tables
from metaldefect.inspection.layout import GOOD
from metaldefect.metrics.live import LiveMetrics, Share, live_metrics
from pipeline.inbox import INBOX
from pipeline.params import load_params

REPORTS = Path("reports/live")
METRICS = "metrics.json"
HARD_CASES = "hard_cases.csv"
FALSE_ALARM, MISSED = "false alarm", "missed defect"
SENT = "sent.json"  # label and file by key, of the photographs that were sent to the inbox
CASE_COLUMNS = [
    "id", "kind", "score", "threshold", "margin", "time", "model_version", "label", "note", "photograph",
]  # fmt: skip
# Verdicts of earlier versions have whole seconds
CLOCK = pd.Timedelta(seconds=1)
LISTED = 5


@dataclass(frozen=True)
class Sending:
    """What became of the photographs of hard cases.

    Attributes:
        sent: number of those that were copied into the inbox.
        unnamed: ids of missed defects of which nobody said the class.
        unknown: ids and labels of missed defects whose label is no class of the project.
        waits: whether all wait for a table in the inbox, which would hide them.
        corrected: files that were sent under a label that an operator has corrected since, and the label.
    """

    sent: int = 0
    unnamed: Sequence[str] = ()
    unknown: Sequence[str] = ()
    waits: bool = False
    corrected: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        """The same in words."""
        if self.sent:
            yield f"{self.sent} photographs of hard cases sent to the inbox"
        if self.waits:
            yield "photographs of hard cases wait until the table in the inbox is taken in"
        if self.unnamed:
            yield f"{len(self.unnamed)} missed defects wait for a label: {some(self.unnamed)}"
        if self.unknown:
            yield f"{len(self.unknown)} labels are no class of params.yaml: {some(self.unknown)}"
        if self.corrected:
            yield f"{len(self.corrected)} verdicts were corrected later; move {some(self.corrected)}"


@dataclass(frozen=True)
class LiveReport:
    """What the verdicts say.

    Attributes:
        metrics: by model version, the newest last.
        hard_cases: rows where operator and model differ, the widest margin first.
        verdicts: how many there are.
        unknown: ids of verdicts on images that the log does not hold.
        sending: what became of the photographs of hard cases.
    """

    metrics: dict[str, LiveMetrics]
    hard_cases: pd.DataFrame
    verdicts: int
    unknown: list[str]
    sending: Sending = Sending()

    def __str__(self) -> str:
        lines = [f"{self.verdicts} verdicts, {len(self.hard_cases)} of them unlike the model's"]
        for version, found in self.metrics.items():
            lines.append(f"model {version}: of its alarms {share_in_words(found.confirmed)} were defects;")
            lines.append(f"  of what it passed and somebody checked, {share_in_words(found.missed)} were")
        lines += self.sending.lines()
        if self.unknown:
            shown = some(self.unknown)
            lines.append(f"{len(self.unknown)} verdicts name images that the log does not hold: {shown}")
        return "\n".join(lines)


def some(names: Sequence[str]) -> str:
    """The first names of a list, safe to print."""
    return ", ".join(printable(name) for name in names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def collect(
    root: Path, log: Path, table: Path | None = None, classes: Collection[str] | None = None
) -> LiveReport:
    """Join verdicts with the log, write `reports/live`, and send photographs of hard cases to the inbox.

    Args:
        root: the project's folder.
        log: folder of the service's log, which also holds what `/feedback` received.
        table: CSV file with the columns id and verdict (see `read_feedback`).
        classes: of defects; None: those of the project's `params.yaml`.

    Raises:
        UserError: the table cannot be read.
    """
    verdicts = read_feedback(log, table)
    joined = judged_rows(read_log(log), verdicts)
    metrics = {
        str(version): live_metrics(rows["is_anomalous"].to_numpy(bool), rows["defective"].to_numpy(bool))
        for version, rows in joined.groupby("model_version", sort=False)
    }
    unknown = sorted(set(verdicts["id"]) - set(joined["id"]))
    cases = hard_cases(joined, log)
    folder = root / REPORTS
    folder.mkdir(parents=True, exist_ok=True)
    report = LiveReport(metrics, cases, len(verdicts), unknown)
    write_json(folder / METRICS, as_dict(report))
    with atomic_file(folder / HARD_CASES) as temporary:
        report.hard_cases.to_csv(temporary, index=False)
    if cases.empty and not (folder / SENT).is_file():
        return report
    if classes is None:
        classes = load_params(root / "params.yaml").data.classes
    return replace(report, sending=send_photographs(joined, cases, classes, root / INBOX, folder / SENT))


def judged_rows(scored: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The score that each verdict speaks of: the last one of its id that is older than the verdict.

    A camera may give the same names again on every shift. `newest` says whether the row is the last one of
    its id in the log, so that a file kept under the id shows the part that was judged.
    """
    newest = scored.groupby("id")["time"].max()
    joined = scored.merge(verdicts, on="id", suffixes=("", "_judged"))
    judged = pd.to_datetime(joined["time_judged"].replace("", None), utc=True, format="ISO8601")
    joined = joined[judged.isna() | (pd.to_datetime(joined["time"], utc=True) <= judged + CLOCK)]
    joined = joined.drop_duplicates("id", keep="last", ignore_index=True)
    return joined.assign(newest=joined["time"].to_numpy() == joined["id"].map(newest).to_numpy())


def hard_cases(joined: pd.DataFrame, log: Path) -> pd.DataFrame:
    """Rows that the operator decides otherwise, with their photographs where those are kept or named.

    `margin` is how far the score lies on the wrong side.
    """
    wrong = joined[joined["is_anomalous"].astype(bool) != joined["defective"].astype(bool)].copy()
    wrong["kind"] = [MISSED if defective else FALSE_ALARM for defective in wrong["defective"]]
    wrong["margin"] = (wrong["score"] - wrong["threshold"]).abs()
    wrong["photograph"] = [
        path or (str(kept_frame(log, name) or "") if newest else "")
        for name, path, newest in zip(wrong["id"], wrong["path"], wrong["newest"], strict=True)
    ]
    return wrong.sort_values("margin", ascending=False, ignore_index=True)[CASE_COLUMNS]


def send_photographs(
    joined: pd.DataFrame, cases: pd.DataFrame, classes: Collection[str], inbox: Path, record: Path
) -> Sending:
    """Copy the photographs of hard cases into the inbox, in the folder of what they show, each once.

    Args:
        joined: all rows with a verdict.
        cases: the hard ones.
        classes: of defects.
        inbox: folder that `watch-inbox` looks into.
        record: JSON file of what was sent.
    """
    sent: dict[str, dict[str, str]] = read_json(record) if record.is_file() else {}
    corrected = [
        f"{known['file']} from {known['label']} to {label}"
        for row in joined.to_dict("records")
        if (known := sent.get(key_of(row))) and (label := shown_by(row)) not in ("", known["label"])
    ]
    ready, unnamed, unknown = [], [], []
    for case in cases.to_dict("records"):
        label = GOOD if case["kind"] == FALSE_ALARM else case["label"]
        if key_of(case) in sent or not case["photograph"] or not Path(case["photograph"]).is_file():
            continue
        if not label:
            unnamed.append(case["id"])
        elif (label != GOOD and label not in classes) or (label == GOOD and case["kind"] == MISSED):
            unknown.append(f"{label} of {case['id']}")
        else:
            ready.append((case, label))
    if ready and inbox.is_dir() and find_tables(inbox):
        return Sending(0, unnamed, unknown, True, corrected)
    done = 0
    for case, label in ready:
        photograph = Path(case["photograph"])
        place = inbox / label / f"{file_name(case['id'])}{photograph.suffix.lower()}"
        with suppress(FileNotFoundError), atomic_file(place) as temporary:  # the service may drop it now
            shutil.copyfile(photograph, temporary)
            sent[key_of(case)] = {"label": label, "file": f"{label}/{place.name}"}
            done += 1
        write_json(record, sent)
    return Sending(done, unnamed, unknown, False, corrected)


def key_of(row: Mapping[Any, Any]) -> str:
    """An id may come again, on another part: its time tells them apart."""
    return f"{row['id']} {pd.Timestamp(row['time']).isoformat()}"


def shown_by(row: Mapping[Any, Any]) -> str:
    """The class that a photograph shows, as the operator says; empty if nobody said."""
    return str(row["label"]) if row["defective"] else GOOD


def file_name(name: str) -> str:
    """A file name by which a person finds the part: its id, and a hash that tells similar ids apart."""
    return f"live-{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:60]}-{file_stem(name)[:8]}"


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
