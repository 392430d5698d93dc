"""MLflow runs of processes that were killed: they would say Running for good.

Every run carries the process that made it as a tag. The next pipeline run on the same machine ends those
whose process no longer exists.
"""

from __future__ import annotations

import socket

import psutil

TAG = "process"
# A process's start is known relative to the clock, which may be set while it runs
CLOCK_SECONDS = 5.0


def process_tag(process: psutil.Process | None = None) -> str:
    """Names a process, this one by default: machine, process id, and when it started (ids are used again)."""
    process = process or psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time():.2f}"


def is_gone(tag: str) -> bool:
    """Whether a process of this machine no longer runs; False for another machine's."""
    host, number, created = tag.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(number))
        other = abs(process.create_time() - float(created)) > CLOCK_SECONDS
        return other or process.status() == psutil.STATUS_ZOMBIE
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
