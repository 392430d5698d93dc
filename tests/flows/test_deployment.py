"""`metaldefect deploy` for real: server, worker and watchdog, all flows, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from metaldefect.deploy.feedback import Feedback, FeedbackLog
from pipeline.deployment import Background
from pipeline.watchdog import call, find_trouble
from tests.drifting_line import Line

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
PIPELINE, RETRAIN = "pipeline/pipeline", "retrain/retrain"
WATCH = """\
import sys
from flows.collect_labels import collect_labels
from flows.watch_drift import watch_drift
from flows.watch_inbox import watch_inbox
root = {root!r}
states = [
    watch_inbox(root=root, settle=0, return_state=True),
    watch_drift(root=root, min_rows=40, return_state=True),
    collect_labels(root=root, return_state=True),
]
for state in states:
    print("STATE", state.name, "|", state.message)
print("TORCH", "torch" in sys.modules)
"""


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


@dataclass(frozen=True)
class Deployed:
    """A deployed toy project, and the environment of its clients."""

    root: Path
    environment: dict[str, str]
    api: str
    output: str

    def deployment(self, name: str = PIPELINE) -> dict[str, Any]:
        return call(self.api, f"/deployments/name/{name}")

    def runs(self, **condition: Any) -> list[dict[str, Any]]:
        return call(self.api, "/flow_runs/filter", {"flow_runs": condition})

    def command(self, name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", name, "--root", str(self.root)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_home: Path,
    make_environment: Callable[[Path], dict[str, str]],
    write_toy: Callable[[Path, dict[str, str]], Path],
) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployed")
    environment = make_environment(folder)
    shutil.copytree(migrated_home, environment["PREFECT_HOME"])
    root = write_toy(folder / "toy", environment)
    shutil.copy(ROOT / "prefect.yaml", root)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment |= {
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    command = [sys.executable, "-m", "pipeline.cli", "deploy", "--root", str(root), "--port", str(port)]
    api = f"http://127.0.0.1:{port}/api"
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Deployed(root, environment | {"PREFECT_API_URL": api}, api, done.stdout)
    finally:
        subprocess.run([*command[:3], "undeploy", "--root", str(root)], env=environment, timeout=240)
        assert all(Background(root, name).process() is None for name in ("server", "worker", "watchdog"))


def test_the_file_names_no_folder_of_this_machine_and_only_what_exists() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    assert "pull:" not in text
    assert str(ROOT) not in text
    for deployment in DEPLOYMENTS:
        module, _, function = deployment["entrypoint"].rpartition(".")
        assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert deployment["tags"]


def test_deploy_says_what_runs_and_everything_is_well(deployed: Deployed) -> None:
    assert deployed.output.splitlines()[:3] == [
        f"server    started: {deployed.api.removesuffix('/api')}",
        "worker    started, pool 'metal'",
        "watchdog  started: what stands still is reported",
    ]
    found = {each["name"]: each for each in call(deployed.api, "/deployments/filter", {})}
    assert found.keys() == {each["name"] for each in DEPLOYMENTS}
    triggers = {each["name"] for each in call(deployed.api, "/automations/filter", {})}
    assert triggers == {"new data", "drift"}
    eventually(
        lambda: find_trouble(deployed.api, datetime.now(UTC)) == [], 60, "worker and schedules are well"
    )


def test_the_week_starts_on_sunday_at_three(deployed: Deployed) -> None:
    wanted = {
        "deployments": {"id": {"any_": [deployed.deployment(RETRAIN)["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    scheduled = eventually(
        lambda: call(deployed.api, "/flow_runs/filter", wanted)[1:], 60, "runs are planned"
    )
    times = [datetime.fromisoformat(run["expected_start_time"]) for run in scheduled[:2]]
    assert (times[0].isoweekday(), times[0].hour, times[0].minute) == (7, 3, 0)
    assert times[1] - times[0] == timedelta(days=7)


@pytest.mark.slow
def test_a_schedule_of_one_minute_fires_and_the_run_completes(deployed: Deployed) -> None:
    path = f"/deployments/{deployed.deployment()['id']}/schedules"
    (schedule,) = call(deployed.api, path, [{"active": True, "schedule": {"cron": "* * * * *"}}])
    try:
        run = eventually(
            lambda: deployed.runs(state={"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}),
            240,
            f"a run ends; {Background(deployed.root, 'worker').log}",
        )[0]
    finally:
        subprocess.run(
            [sys.executable, "-c", DELETE, f"{deployed.api}{path}/{schedule['id']}"], check=True, timeout=60
        )
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    assert run["auto_scheduled"]
    assert (deployed.root / "last.txt").read_text() == "first: {value: 1}\n" * 2
    assert list(yaml.safe_load((deployed.root / "dvc.lock").read_text())["stages"])[-1] == "last"


DELETE = "import sys, urllib.request as r; r.urlopen(r.Request(sys.argv[1], method='DELETE'))"


def test_inbox_and_drift_start_a_training_and_are_reported(deployed: Deployed, tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"] = {"root": "data/raw", "channels": 1, "classes": ["dent"]}
    content["merge"]["datasets"] = [{"adapter": "folder", "root": "."}]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    for name in ("inbox/good/a.png", "inbox/dent/cut.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 250, (40, 40), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:300])
    before = {run["id"] for run in deployed.runs()}

    Line(tmp_path).runs(60, brighter=15)
    FeedbackLog(tmp_path / "scores").add(Feedback(id="part 06:01", defective=True))

    script = WATCH.format(root=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], env=deployed.environment, capture_output=True, text=True, timeout=120
    )

    said = [line.partition(", p =")[0] for line in done.stdout.splitlines()]
    assert [line for line in said if line.startswith(("STATE", "TORCH"))] == [
        "STATE Added | 1 images added, 1 refused, 0 still arriving",
        "STATE Drift | drift in brightness: 60 images against 80 of the reference",
        "STATE Measured | 1 verdicts, 1 of them unlike the model's",
        "TORCH False",
    ], done.stdout + done.stderr
    assert (tmp_path / "data/raw/good/a.png").is_file()
    notices = (tmp_path / "logs/notices.log").read_text()
    assert "1 files from the inbox were refused" in notices
    assert "warning drift | drift in brightness" in notices
    artifacts = {each["key"] for each in call(deployed.api, "/artifacts/filter", {})}
    assert {"refused", "drift", "drift-picture", "live"} <= artifacts
    training = deployed.deployment(RETRAIN)["id"]

    def started() -> list[dict[str, Any]] | None:
        new = [run for run in deployed.runs() if run["id"] not in before]
        found = [run for run in new if run["deployment_id"] == training and not run["auto_scheduled"]]
        return found if len(found) == 2 else None

    runs = eventually(started, 60, "the events data.new and drift.detected start a retraining each")
    assert {run["created_by"]["type"] for run in runs} == {"AUTOMATION"}
    ends = {
        "COMPLETED",
        "FAILED",
        "CRASHED",
    }
    for run in runs:
        eventually(
            lambda run=run: call(deployed.api, f"/flow_runs/{run['id']}")["state"]["type"] in ends,
            180,
            f"the retraining ends; {Background(deployed.root, 'worker').log}",
        )


def test_cancelling_a_run_on_the_server_ends_the_stage(
    toy: Path, deployed: Deployed, alive: Callable[[int], bool]
) -> None:
    pid_file = slow_stage(toy)
    with (toy / "log").open("w") as stream:
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.run", "--root", str(toy)],
            env=deployed.environment,
            stdout=stream,
            stderr=stream,
        )
    eventually(lambda: pid_file.is_file() and pid_file.read_text().strip(), 120, f"slow runs; {toy / 'log'}")
    pid = int(pid_file.read_text())
    assert alive(pid)
    running = deployed.runs(state={"type": {"any_": ["RUNNING"]}})
    (run,) = (each for each in running if each["deployment_id"] is None)

    call(deployed.api, f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})

    assert flow.wait(timeout=60) == 1, (toy / "log").read_text()
    assert not alive(pid)
    assert call(deployed.api, f"/flow_runs/{run['id']}")["state"]["type"] == "CANCELLED"
    assert "Cancelled: the running stages were ended" in (toy / "log").read_text()


def slow_stage(root: Path) -> Path:
    """Let the stage `slow` take two minutes; returns the file that will hold its process's id."""
    definition = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(definition.replace("sleep 1 &&", "echo $$ > pid; sleep 120 &&"))
    return root / "pid"


def test_sigterm_of_the_worker_ends_stage_and_run_and_the_watchdog_misses_it(
    deployed: Deployed, alive: Callable[[int], bool]
) -> None:
    pid_file = slow_stage(deployed.root)
    (deployed.root / "slow.txt").unlink(missing_ok=True)
    run = call(deployed.api, f"/deployments/{deployed.deployment()['id']}/create_flow_run", {})
    log = Background(deployed.root, "worker").log
    eventually(lambda: pid_file.is_file() and pid_file.read_text().strip(), 120, f"slow runs; {log}")
    pid = int(pid_file.read_text())
    worker = Background(deployed.root, "worker").process()
    assert worker is not None
    assert alive(pid)

    os.kill(worker.pid, signal.SIGTERM)

    eventually(lambda: not alive(worker.pid), 90, "the worker ends")
    assert not alive(pid)
    state = call(deployed.api, f"/flow_runs/{run['id']}")["state"]
    assert state["type"] == "CRASHED", json.dumps(state)
    later = datetime.now(UTC) + timedelta(minutes=3)
    assert find_trouble(deployed.api, later)[0].startswith("no worker runs")


def test_undeploy_ends_what_runs(deployed: Deployed) -> None:
    assert deployed.command("undeploy") == "ended: watchdog, server\n"
    assert deployed.command("undeploy") == "nothing of this project was running\n"
