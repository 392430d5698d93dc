"""MLflow runs of processes that were killed: they would say Running for good.

Every run carries the process that made it as a tag. The next pipeline run on the same machine ends those
whose process no longer exists.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

TAG = "process"
START_TICKS = 19  # of the fields behind the name in /proc/<id>/stat: clock ticks from the boot to the start
CLOCK_SECONDS = 5.0  # error of a start that is known by the clock alone


def process_tag(process: psutil.Process | None = None) -> str:
    """Names a process, this one by default: machine, process id, and its birth (ids are used again)."""
    number = process.pid if process is not None else os.getpid()
    return f"{socket.gethostname()} {number} {birth_of(number)}"


def birth_of(number: int) -> str:
    """When a process began, such that setting the clock changes nothing: the boot, and ticks since then.

    Raises:
        psutil.NoSuchProcess: there is none of this id.
    """
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{fields.split()[START_TICKS]}"
    except OSError:  # no such process, or no Linux
        return f"{psutil.Process(number).create_time():.2f}"


def is_born(number: int, birth: str) -> bool:
    """Whether a process of this id runs and began then.

    Args:
        number: the process's id.
        birth: from `birth_of`; a number alone is its start in seconds, as earlier versions wrote it.
    """
    try:
        process = psutil.Process(number)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if ":" in birth:
            return birth_of(number) == birth
        return abs(process.create_time() - float(birth)) <= CLOCK_SECONDS
    except (psutil.NoSuchProcess, ValueError):
        return False


def is_gone(tag: str) -> bool:
    """Whether a process of this machine no longer runs; False for another machine's."""
    host, number, birth = tag.rsplit(" ", 2)
    return host == socket.gethostname() and not is_born(int(number), birth)


def close_dead_runs(experiment_id: str) -> list[str]:
    """End the runs of dead processes as KILLED; returns their names."""
    import mlflow

    client = mlflow.MlflowClient()
    found = client.search_runs([experiment_id], f"attributes.status = 'RUNNING' and tags.{TAG} != ''")
    dead = [run for run in found if is_gone(run.data.tags[TAG])]
    for run in dead:
        client.set_terminated(run.info.run_id, "KILLED")
    return [run.info.run_name for run in dead]
