"""Processes and flow runs that a killed worker or flow left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import dead_flow_runs, worker
from pipeline.dead_flow_runs import close_dead_flow_runs
from pipeline.deployment import Background
from pipeline.orphans import FLOW, WORKER, find_orphans, stop_orphans

# Starts a child that works for it, says its id, and waits
OWNER = """\
import os, subprocess, sys, time
from pipeline.orphans import works_for_this
owned = os.environ | works_for_this(sys.argv[1])
child = subprocess.Popen(["sleep", "300"], env=owned, start_new_session=True)
print(child.pid, flush=True)
time.sleep(300)
"""
PLANT = Path("/plant")
LOCAL = "http://127.0.0.1:4200/api"
LONG_AGO = datetime(2026, 1, 1, 12, tzinfo=UTC)


def start_owner(
    folder: Path, environment: dict[str, str], variable: str
) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-c", OWNER, variable]
    owner = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


def test_a_child_is_an_orphan_once_its_owner_was_killed(
    tmp_path: Path, environment: dict[str, str], alive: Callable[[int], bool]
) -> None:
    owner, child = start_owner(tmp_path, environment, FLOW)
    try:
        assert list(find_orphans(tmp_path, FLOW)) == []
        owner.kill()
        owner.wait()
        assert [found.pid for found in find_orphans(tmp_path, FLOW)] == [child]
        assert list(find_orphans(tmp_path, WORKER)) == [], "a flow must not end what a worker left"
        assert list(find_orphans(tmp_path / "other", FLOW)) == []
        assert stop_orphans(tmp_path, WORKER, FLOW) == 1
        assert not alive(child)
    finally:
        owner.kill()
        owner.wait()


@pytest.mark.parametrize("is_reaped", [True, False])
def test_a_killed_servers_child_is_ended_before_the_next_start(
    tmp_path: Path, alive: Callable[[int], bool], is_reaped: bool
) -> None:
    (tmp_path / "parent.py").write_text(
        "import subprocess, time\n"
        "open('child', 'w').write(str(subprocess.Popen(['sleep', '300']).pid))\n"
        "time.sleep(300)\n"
    )
    background = Background(tmp_path, "server")
    background.start(["parent"])
    deadline = time.monotonic() + 60
    while not ((tmp_path / "child").is_file() and (tmp_path / "child").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child, parent = int((tmp_path / "child").read_text()), background.process()
    assert parent is not None
    os.kill(parent.pid, signal.SIGKILL)
    if is_reaped:
        parent.wait(10)
    else:  # as in a container whose first process reaps nobody
        while parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
    assert alive(child)
    background.end_leftovers()
    assert not alive(child)


class Prefect:
    """Stands in for Prefect's API: answers filters from a list of runs, and keeps the states it is told."""

    def __init__(self, runs: list[dict[str, Any]]) -> None:
        self.runs, self.told = runs, {}

    def call(self, _api: str, path: str, body: dict[str, Any]) -> Any:
        if path == "/deployments/filter":
            step = {"prefect.deployments.steps.set_working_directory": {"directory": "/plant"}}
            return [
                {"id": "ours", "path": None, "pull_steps": [step]},
                {"id": "another project's", "path": "/other", "pull_steps": None},
            ]
        if path == "/flow_runs/filter":
            condition = body["flow_runs"]
            assert condition["state"] == {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
            assert condition.get("deployment_id", {"any_": ["ours"]}) == {"any_": ["ours"]}
            parents = condition.get("parent_flow_run_id", {}).get("any_")
            return [run for run in self.runs if (run["parent"] in parents if parents else not run["parent"])]
        self.told[path.split("/")[2]] = (body["state"]["name"], body["force"])
        return {}


def run(
    name: str, state: str, pid: int | None, parent: str | None = None, at: datetime = LONG_AGO
) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "parent": parent,
        "infrastructure_pid": str(pid) if pid else None,
        "state": {
            "type": state,
            "name": state.title(),
            "timestamp": at.isoformat(),
        },
    }


def test_runs_without_a_process_are_crashed_or_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "prefect.engine"])
    other = subprocess.Popen(["sleep", "60"])  # the id was given to another program
    ended = subprocess.Popen(["true"])
    ended.wait()
    started = datetime.fromtimestamp(psutil.Process(living.pid).create_time(), UTC)
    api = Prefect(
        [
            run("living", "RUNNING", living.pid, at=started),
            run("starting", "PENDING", living.pid, at=started - timedelta(seconds=50)),
            run("of before the reboot", "RUNNING", living.pid, at=started - timedelta(seconds=10)),
            run("taken before the reboot", "PENDING", living.pid, at=started - timedelta(seconds=70)),
            run("killed", "RUNNING", ended.pid),
            run("its pipeline", "RUNNING", None, parent="killed"),
            run("replaced", "CANCELLING", other.pid, at=started + timedelta(seconds=5)),
            run("never started", "PENDING", None),
            run("about to start", "PENDING", None, at=started - timedelta(seconds=50)),
        ]
    )
    monkeypatch.setattr(dead_flow_runs, "call", api.call)
    try:
        said = close_dead_flow_runs(PLANT, LOCAL, started + timedelta(seconds=1))
    finally:
        for process in (living, other):
            process.kill()
            process.wait()
    assert api.told == {
        "of before the reboot": ("Crashed", True),
        "taken before the reboot": ("Scheduled", True),
        "killed": ("Crashed", True),
        "its pipeline": ("Crashed", True),
        "replaced": ("Crashed", True),
        "never started": ("Scheduled", True),
    }
    assert said[0] == "of before the reboot is Crashed, no longer Running"
    assert said[2] == "killed is Crashed, no longer Running"
    assert close_dead_flow_runs(PLANT, "http://prefect.plant.example/api", started) == [], (
        "process ids of another machine"
    )


def test_a_worker_cleans_up_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    answers = iter([False, True])
    monkeypatch.setattr(worker, "stop_orphans", lambda *_: order.append("processes") or 2)
    monkeypatch.setattr(worker, "answers", lambda _api: order.append("ask") or next(answers))
    monkeypatch.setattr(worker, "close_dead_flow_runs", lambda *_: order.append("runs") or ["x is Crashed"])
    assert worker.clean_up(tmp_path, LOCAL) == ["ended 2 processes of a killed worker", "x is Crashed"]
    assert order == ["processes", "ask", "ask", "runs"]
