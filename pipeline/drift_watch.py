"""Watching drift: the live model's log against the reference in its bundle, one batch after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from metaldefect.artifacts import read_json, write_json
from metaldefect.config import Config
from metaldefect.deploy.bundle import METADATA, bundle_version
from metaldefect.deploy.prediction_log import observed_columns, read_log
from metaldefect.deploy.reference import read_reference
from metaldefect.figures import save_figure
from metaldefect.metrics.drift import DriftResult, DriftSettings, Statistic, find_drift
from pipeline.drift_figure import drift_figure

REPORTS = Path("reports/drift")
STATE = "state.json"
RESULT = "latest.json"
PICTURE = "latest.png"

Outcome = Literal["Waiting", "Cooling", "Stable", "Drift"]

NAMES = {
    "score": "scores",
    "grey_mean": "brightness",
    "grey_std": "contrast",
    "embedding": "pattern of the anomaly map",
}


class WatchState(Config):
    """What earlier looks have decided.

    Attributes:
        seen_until: time of the last row that was compared.
        alarm_at: time of the last alarm.
        untold: text of the last alarm while nobody has been told.
    """

    seen_until: datetime | None = None
    alarm_at: datetime | None = None
    untold: str | None = None


@dataclass(frozen=True)
class Look:
    """One look at the log.

    Attributes:
        outcome: Waiting (too few rows), Cooling (too soon after an alarm), Stable or Drift.
        text: why, in one sentence.
        result: the comparison, if there was one.
    """

    outcome: Outcome
    text: str
    result: DriftResult | None = None


def look(
    root: Path,
    bundle: Path,
    log: Path,
    settings: DriftSettings,
    cooldown: timedelta,
    now: datetime | None = None,
) -> Look:
    """Compare the rows since the last look with the reference, and remember what was decided.

    An alarm stays in the state's `untold` until `forget_untold`: a run that is killed cannot report it.

    Every row is compared once: batches that overlap would raise the rate of false alarms.

    Args:
        root: the project's folder; `reports/drift` in it holds state and result.
        bundle: the model that serves.
        log: folder of the service's log.
        settings: sizes and the rate of false alarms.
        cooldown: time after an alarm without another one.
        now: the time; None: the clock's.

    Raises:
        UserError: the bundle holds no reference.
    """
    now = now or datetime.now(UTC)
    folder = root / REPORTS
    path = folder / STATE
    state = read_state(root)
    if not (bundle / METADATA).is_file():
        return Look("Waiting", f"no model serves yet: {bundle} does not exist")
    if state.alarm_at is not None and now < state.alarm_at + cooldown:
        until = (state.alarm_at + cooldown).isoformat(timespec="minutes")
        return Look("Cooling", f"drift was reported at {state.alarm_at:%Y-%m-%d %H:%M}; quiet until {until}")
    rows = new_rows(read_log(log), bundle_version(bundle), state.seen_until)
    if len(rows) < settings.min_rows:
        return Look("Waiting", f"{len(rows)} of {settings.min_rows} new rows of the live model in {log}")
    precision = str(rows["precision"].mode()[0])
    rows = rows[rows["precision"] == precision]
    reference, batch = observed_columns(read_reference(bundle, precision)), observed_columns(rows)
    result = find_drift(reference, batch, settings)
    last = rows["time"].iloc[-1].to_pydatetime()
    found = Look("Drift" if result.drifted else "Stable", in_words(result), result)
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(drift_figure(reference, batch, result, found.text), folder / PICTURE)
    write_json(folder / RESULT, as_dict(found, rows, precision, settings))
    new = state.replace(seen_until=last)
    if result.drifted:
        new = new.replace(alarm_at=now, untold=found.text)
    write_json(path, new.model_dump(mode="json"))
    return found


def read_state(root: Path) -> WatchState:
    """What earlier looks have decided.

    Raises:
        UserError: the file is damaged.
    """
    path = root / REPORTS / STATE
    return WatchState.parse(read_json(path), str(path)) if path.is_file() else WatchState()


def forget_untold(root: Path) -> None:
    """People and automations know of the last alarm."""
    write_json(root / REPORTS / STATE, read_state(root).replace(untold=None).model_dump(mode="json"))


def new_rows(log: pd.DataFrame, version: str, since: datetime | None) -> pd.DataFrame:
    """Rows of one model after a time."""
    rows = log[log["model_version"] == version]
    return rows if since is None else rows[rows["time"] > pd.Timestamp(since)]


def in_words(result: DriftResult) -> str:
    """One sentence for operators: what has moved, or that nothing has."""
    compared = f"{result.rows} images against {result.reference_rows} of the reference"
    if not result.drifted:
        return f"no drift: {compared}, p = {result.p_value:.3g}"
    moved = dict.fromkeys(described(statistic.name) for statistic in result.statistics if statistic.exceeds)
    return f"drift in {' and '.join(moved)}: {compared}, p = {result.p_value:.3g}"


def described(name: str) -> str:
    """A statistic's column in words."""
    return NAMES[name.rpartition("_")[0]]


def table(statistics: Sequence[Statistic]) -> str:
    """The statistics as a Markdown table."""
    lines = ["| what | statistic | value | alarm from | |", "|---|---|---|---|---|"]
    for statistic in statistics:
        kind = statistic.name.rpartition("_")[2].upper()
        mark = "**drift**" if statistic.exceeds else "ok"
        numbers = f"{statistic.value:.4g} | {statistic.threshold:.4g}"
        lines.append(f"| {described(statistic.name)} | {kind} | {numbers} | {mark} |")
    return "\n".join(lines)


def as_dict(found: Look, rows: pd.DataFrame, precision: str, settings: DriftSettings) -> dict[str, Any]:
    """The result for a JSON file."""
    assert found.result is not None
    return {
        "outcome": found.outcome,
        "text": found.text,
        "model_version": str(rows["model_version"].iloc[-1]),
        "precision": precision,
        "from": rows["time"].iloc[0].isoformat(),
        "to": rows["time"].iloc[-1].isoformat(),
        "rows_since_last_look": len(rows),
        "settings": settings.model_dump(),
        **asdict(found.result),
        "statistics": [
            asdict(each) | {"threshold": each.threshold if math.isfinite(each.threshold) else None}
            for each in found.result.statistics
        ],
    }
