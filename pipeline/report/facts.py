"""Where a report comes from, and the run before it: date, commit, profile, machine, data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from metaldefect.hardware import machine_name
from metaldefect.metrics.directions import improvement
from pipeline.main_metrics import formatted
from pipeline.params import Params
from pipeline.parent import DATA_TAG, data_hash
from pipeline.profiles import CONF, PARAMS, changes, profile_name
from pipeline.run import EXPERIMENT, StageRun, git_commit

SAMPLE = Path("data/sample")  # where the stage `sample` writes procedural images
STAGE = "report"


@dataclass(frozen=True)
class Facts:
    """Where the numbers of a page come from; `data_hash` is DVC's for the merged data."""

    date: str
    commit: str
    profile: str
    machine: str
    data_hash: str
    procedural: bool


@dataclass(frozen=True)
class Previous:
    """The last finished run of the report before this one."""

    date: str
    commit: str
    data_hash: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricChange:
    """A headline metric that differs from the last run's."""

    name: str
    before: str
    after: str
    kind: str  # `good`, `bad`, or empty if neither direction is better


def collect_facts(params: Params) -> Facts:
    """The facts of the run in the current folder."""
    return Facts(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=git_commit(),
        profile=profile_name(PARAMS, CONF),
        machine=machine_name(),
        data_hash=data_hash(Path("dvc.lock")),
        procedural=is_procedural(params),
    )


def is_procedural(params: Params) -> bool:
    """Whether all images of the run come from the stage `sample`."""
    return params.data.root == SAMPLE


def record(run: StageRun, facts: Facts) -> None:
    """Keep with the tracked run what the next report compares itself with."""
    import mlflow

    mlflow.set_tag(DATA_TAG, facts.data_hash)
    run.log_artifact(PARAMS)


def previous_run(run: StageRun) -> Previous | None:
    """The last finished report before `run`, from the tracking store; None if there is none."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    condition = f"tags.`dvc.stage` = '{STAGE}' and attributes.status = 'FINISHED'"
    assert experiment is not None  # `run` is in it
    runs = client.search_runs(
        [experiment.experiment_id], condition, order_by=["attributes.start_time DESC"], max_results=2
    )
    found = [item for item in runs if item.info.run_id != run.run_id]
    if not found:
        return None
    last = found[0]
    names = {item.path for item in client.list_artifacts(last.info.run_id)}
    text = ""
    if PARAMS.name in names:
        text = mlflow.artifacts.load_text(f"runs:/{last.info.run_id}/{PARAMS.name}")
    return Previous(
        date=datetime.fromtimestamp(last.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=last.data.tags.get("git.commit", "unknown"),
        data_hash=last.data.tags.get(DATA_TAG, ""),
        metrics=dict(last.data.metrics),
        params=yaml.safe_load(text) or {},
    )


def metric_changes(previous: Previous, headline: Mapping[str, float]) -> list[MetricChange]:
    """The headline metrics that differ from the last run's by more than their sixth digit."""
    found = []
    for name, after in headline.items():
        before = previous.metrics.get(name)
        if before is None or abs(after - before) <= 1e-6 * max(abs(after), abs(before)):
            continue
        better = improvement(name, before, after)
        kind = "" if not better else "good" if better > 0 else "bad"
        old = int(before) if isinstance(after, int) else before  # the store knows no whole numbers
        found.append(MetricChange(name.replace("_", " "), formatted(old), formatted(after), kind))
    return found


def setting_changes(previous: Previous, params: Params) -> list[str]:
    """One line per setting that differs from the last run's; none if the last run kept no settings."""
    if not previous.params:
        return []
    return changes(previous.params, params.model_dump(mode="json"))
