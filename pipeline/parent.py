"""What an operator compares pipeline runs by, on the parent run in MLflow: metrics, parameters, origin."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from metaldefect.hardware import cpu_name
from pipeline.environment import LISTING, environment_tags, installed_packages
from pipeline.headline import headline_metrics
from pipeline.lineage import LOCK, data_hashes, locked_stages
from pipeline.profiles import CONF, PARAMS, profile_name
from pipeline.run import flatten

DATA_TAG = "data.md5"
LOCK_TAG = "dvc.lock_md5"
DATA_OUT = "data/merged"
REPORT = Path("reports/index.html")
LONGEST = 500  # characters of a parameter's value
PARAM_BATCH = 100  # what MLflow takes at once


def describe_parent(run_id: str) -> None:
    """Log headline metrics, parameters, profile, machine, environment, data hash, lock file and report of the
    project in the current folder to a pipeline's run."""
    import mlflow
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.time import get_current_time_millis

    client, now = mlflow.MlflowClient(), get_current_time_millis()
    params = dict(flatten(yaml.safe_load(PARAMS.read_text(encoding="utf-8"))))
    metrics = [Metric(name, float(value), now, 0) for name, value in headline_metrics(Path()).items()]
    kept = client.get_run(run_id).data.params  # a parameter cannot be logged twice
    logged = [Param(key, str(value)[:LONGEST]) for key, value in params.items() if key not in kept]
    tags = [RunTag(key, value) for key, value in origin().items()]
    client.log_batch(run_id, metrics=metrics, tags=tags)
    for start in range(0, len(logged), PARAM_BATCH):
        client.log_batch(run_id, params=logged[start : start + PARAM_BATCH])
    client.log_text(run_id, "\n".join([*installed_packages(), ""]), LISTING)
    for file in (LOCK, PARAMS, REPORT):
        if file.is_file():
            client.log_artifact(run_id, str(file))


def origin() -> dict[str, str]:
    """Where a run's results come from: profile, machine, environment, and hashes of data and lock file."""
    return {
        "profile": profile_name(PARAMS, CONF),
        "machine": cpu_name(),
        DATA_TAG: data_hash(LOCK),
        LOCK_TAG: lock_md5(LOCK),
        **environment_tags(Path()),
    }


def data_hash(lock: Path) -> str:
    """DVC's hash of the merged data, or empty where no lock file knows it."""
    made: dict[str, Any] = locked_stages(lock).get("merge", {})
    return data_hashes(made.get("outs", [])).get(DATA_OUT, "")


def lock_md5(lock: Path) -> str:
    """MD5 of the lock file; of nothing where there is none."""
    return hashlib.md5(lock.read_bytes() if lock.is_file() else b"").hexdigest()
