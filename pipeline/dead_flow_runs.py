"""Prefect's flow runs whose process is gone: nothing else would ever change their state.

They would say Running for good and keep their deployment's only place for five minutes. A run that was taken
by a worker but never started goes back to the queue.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from pipeline.watchdog import call, instant

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# A worker takes seconds between taking a run and starting its process
STARTING = timedelta(seconds=60)
# The system knows when a process started to within the error of its clock
CLOCK_ERROR = timedelta(seconds=5)


def close_dead_flow_runs(root: Path, api: str, now: datetime | None = None) -> list[str]:
    """Mark a project's runs whose process is gone as Crashed; let runs that never started be taken again.

    Only where Prefect's server is on this machine, because process ids of other machines mean nothing here.

    Args:
        root: the project's folder, in which its deployments run.
        api: URL of Prefect's API.
        now: the time; None: the clock's.

    Returns:
        One line per run.
    """
    if urlsplit(api).hostname not in LOOPBACK:
        return []
    now = now or datetime.now(UTC)
    deployments = [each["id"] for each in call(api, "/deployments/filter", {}) if folder_of(each) == root]
    if not deployments:
        return []
    done = []
    for run in unfinished(api, {"deployment_id": {"any_": deployments}}):
        if has_process(run):
            continue
        if run["state"]["type"] != "PENDING":
            set_state(api, run, {"type": "CRASHED", "name": "Crashed", "message": "its process was killed"})
            done.append(f"{run['name']} is Crashed, no longer {run['state']['name']}")
            for part in unfinished(api, {"parent_flow_run_id": {"any_": [run["id"]]}}):
                set_state(api, part, {"type": "CRASHED", "name": "Crashed", "message": "its flow was killed"})
        elif now - instant(run["state"]["timestamp"]) > STARTING:
            details = {"scheduled_time": now.isoformat()}
            set_state(api, run, {"type": "SCHEDULED", "name": "Scheduled", "state_details": details})
            done.append(f"{run['name']} was taken and never started: it waits again")
    return done


def folder_of(deployment: dict[str, Any]) -> Path | None:
    """The folder in which a deployment's runs work, if it names one."""
    for step in deployment["pull_steps"] or ():
        for options in step.values():
            if "directory" in options:
                return Path(options["directory"])
    return Path(deployment["path"]) if deployment["path"] else None


def unfinished(api: str, condition: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs that are on their way."""
    states = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
    found: list[dict[str, Any]] = call(api, "/flow_runs/filter", {"flow_runs": {"state": states} | condition})
    return found


def has_process(run: dict[str, Any]) -> bool:
    """Whether the process that a worker started for a run still runs.

    After a reboot another of Prefect's processes may have its id, but it is younger than the run's state.
    """
    number = run["infrastructure_pid"] or ""
    # Only the state Pending comes before the process
    margin = STARTING if run["state"]["type"] == "PENDING" else CLOCK_ERROR
    latest = instant(run["state"]["timestamp"]) + margin
    try:
        process = psutil.Process(int(number))
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and process.create_time() <= latest.timestamp()
            and any("prefect" in word for word in process.cmdline())
        )
    except (ValueError, psutil.Error):
        return False


def set_state(api: str, run: dict[str, Any], state: dict[str, Any]) -> None:
    """Give a run a state, whatever it has now."""
    call(api, f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
