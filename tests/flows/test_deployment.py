"""`prefect.yaml` on a real local server: the schedule makes runs, and a worker runs one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def call(api: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def eventually(question: Any, seconds: float, what: str) -> Any:
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = question()
        except OSError:
            answer = None
        if answer:
            return answer
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s: {what}")


def prefect(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_home: Path,
    make_environment: Callable[[Path], dict[str, str]],
) -> Iterator[dict[str, str]]:
    """The environment of a client of a real server on a free port, with an empty database."""
    folder = tmp_path_factory.mktemp("server")
    environment = make_environment(folder)
    shutil.copytree(migrated_home, environment["PREFECT_HOME"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    client = environment | {
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=client, stdout=stream, stderr=stream)
    try:
        eventually(lambda: call(api, "/health"), 120, f"the server answers; {log}")
        yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def clone(toy: Path) -> Path:
    """A toy project with this project's deployment file and flows, as in a clone."""
    shutil.copy(ROOT / "prefect.yaml", toy)
    for package in ("flows", "pipeline", "stages", "metaldefect"):
        ignored = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / package, toy / package, ignore=ignored)
    return toy


def test_the_file_names_no_folder_of_this_machine() -> None:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert "pull" not in content
    assert str(ROOT) not in (ROOT / "prefect.yaml").read_text()
    (deployment,) = content["deployments"]
    assert deployment["name"] == "weekly-retraining"
    file, _, function = deployment["entrypoint"].partition(":")
    assert f"def {function}(" in (ROOT / file).read_text()
    assert deployment["schedules"][0]["cron"] == "0 3 * * 0"


def test_the_schedule_makes_runs_and_a_worker_runs_one(clone: Path, server: dict[str, str]) -> None:
    api = server["PREFECT_API_URL"]
    environment = server | {"PYTHONPATH": str(clone)}
    prefect(clone, environment, "work-pool", "create", "metal", "--type", "process")
    prefect(clone, environment, "--no-prompt", "deploy", "--all")

    wanted = {"deployments": {"name": {"any_": ["weekly-retraining"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    scheduled = eventually(
        lambda: call(api, "/flow_runs/filter", wanted), 60, "the scheduler makes runs of weekly-retraining"
    )

    first, second = (datetime.fromisoformat(run["expected_start_time"]) for run in scheduled[:2])
    assert {run["state"]["type"] for run in scheduled} == {"SCHEDULED"}
    assert (first.isoweekday(), first.hour, first.minute) == (7, 3, 0)
    assert (second - first).days == 7

    deployment = call(api, "/deployments/name/pipeline/weekly-retraining")
    run = call(api, f"/deployments/{deployment['id']}/create_flow_run", {})
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "metal", "--run-once"]
    worker = subprocess.Popen(
        command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        state = eventually(
            lambda: (
                found
                if (found := call(api, f"/flow_runs/{run['id']}")["state"])["type"]
                in ("COMPLETED", "FAILED", "CRASHED")
                else None
            ),
            120,
            "the worker ends the run",
        )
        output, _ = worker.communicate(timeout=60)
    finally:
        if worker.poll() is None:
            worker.kill()
    assert state["type"] == "COMPLETED", output
    assert (clone / "last.txt").read_text() == "first: {value: 1}\n" * 2


def test_cancelling_a_run_on_the_server_ends_the_stage(
    toy: Path, server: dict[str, str], alive: Callable[[int], bool]
) -> None:
    api = server["PREFECT_API_URL"]
    definition = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(definition.replace("sleep 1 &&", "echo $$ > pid; sleep 120 &&"))
    with (toy / "log").open("w") as stream:
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.run", "--root", str(toy)],
            env=server,
            stdout=stream,
            stderr=stream,
        )
    pid_file = toy / "pid"
    eventually(lambda: pid_file.is_file() and pid_file.read_text().strip(), 120, f"slow runs; {toy / 'log'}")
    pid = int(pid_file.read_text())
    assert alive(pid)
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    (run,) = call(api, "/flow_runs/filter", running)

    call(api, f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})

    assert flow.wait(timeout=60) == 1, (toy / "log").read_text()
    assert not alive(pid)
    assert call(api, f"/flow_runs/{run['id']}")["state"]["type"] == "CANCELLED"
    assert "Cancelled: the running stages were ended" in (toy / "log").read_text()
