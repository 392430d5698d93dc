"""MLflow runs of processes that were killed: they would say Running for good.

Every run carries the process that made it as a tag. The next pipeline run on the same machine ends those
whose process no longer exists.
"""

from __future__ import annotations

import socket

import psutil

TAG = "process"
CREATED_DIGITS = 2


def process_tag(process: psutil.Process | None = None) -> str:
    """Names a process, this one by default: machine, process id, and when it started (ids are used again)."""
    process = process or psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time():.{CREATED_DIGITS}f}"


def is_gone(tag: str) -> bool:
    """Whether a process of this machine no longer runs; False for another machine's."""
    host, number, created = tag.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(number))
        return f"{process.create_time():.{CREATED_DIGITS}f}" != created
    except psutil.NoSuchProcess:
        return True


def close_dead_runs(experiment_id: str) -> list[str]:
    """End the runs of dead processes as KILLED; returns their names."""
    import mlflow

    client = mlflow.MlflowClient()
    found = client.search_runs([experiment_id], f"attributes.status = 'RUNNING' and tags.{TAG} != ''")
    dead = [run for run in found if is_gone(run.data.tags[TAG])]
    for run in dead:
        client.set_terminated(run.info.run_id, "KILLED")
    return [run.info.run_name for run in dead]
