"""`metaldefect deploy` for real: server, worker and watchdog, all flows, and how they end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.kills import play_round, strike
from benchmarks.toy_plant import (
    Plant,
    asking,
    faults,
    free_port,
    registry_faults,
    start_mlflow,
    start_service,
    wait_for,
)
from benchmarks.toy_project import commit_change, write_detectors, write_project
from flows.worktree import git
from metaldefect.deploy.bundle import bundle_version
from metaldefect.deploy.feedback import Feedback, FeedbackLog
from pipeline.champion import current, promote
from pipeline.deployment import Background
from pipeline.watchdog import find_trouble
from tests.drifting_line import Line

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
PIPELINE, RETRAIN = "pipeline/pipeline", "retrain/retrain"
WATCH = """\
import sys
import shutil
from flows.collect_labels import collect_labels
from flows.watch_drift import watch_drift
from flows.watch_inbox import watch_inbox
root = {root!r}
states = [watch_inbox(root=root, settle=0, return_state=True)]
shutil.copytree(root + "/later", root + "/inbox", dirs_exist_ok=True)
states += [
    watch_inbox(root=root, settle=0, return_state=True),
    watch_drift(root=root, min_rows=40, return_state=True),
    collect_labels(root=root, return_state=True),
]
for state in states:
    print("STATE", state.name, "|", state.message)
print("TORCH", "torch" in sys.modules)
"""


STAGE_SECONDS = 4
RUN_SECONDS = 40.0


def deployment(plant: Plant, name: str = PIPELINE) -> dict[str, Any]:
    return plant.ask(f"/deployments/name/{name}")


def clients(plant: Plant) -> dict[str, str]:
    """The environment of a program that uses the plant's server."""
    return plant.environment | {"PREFECT_API_URL": plant.api}


def runs_of(plant: Plant, **condition: Any) -> list[dict[str, Any]]:
    return plant.ask("/flow_runs/filter", {"flow_runs": condition})


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_home: Path,
    make_environment: Callable[[Path], dict[str, str]],
) -> Iterator[Plant]:
    """A toy project with the server, the worker and the watchdog that all tests of this file share."""
    folder = tmp_path_factory.mktemp("plant").resolve()
    environment = make_environment(folder) | {
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    shutil.copytree(migrated_home, environment["PREFECT_HOME"])
    detectors = write_detectors(folder / "detectors")
    root = write_project(folder / "project", detectors, environment, STAGE_SECONDS)
    made = Plant(root, detectors, environment, free_port())
    try:
        made.deploy()
        yield made
    finally:
        made.stop()
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


def test_deploy_says_what_runs_and_everything_is_well(plant: Plant) -> None:
    assert plant.output.splitlines()[:3] == [
        f"server    started: {plant.api.removesuffix('/api')}",
        "worker    started, pool 'metal'",
        "watchdog  started: what stands still is reported",
    ]
    found = {each["name"]: each for each in plant.ask("/deployments/filter", {})}
    assert found.keys() == {each["name"] for each in DEPLOYMENTS}
    triggers = {each["name"] for each in plant.ask("/automations/filter", {})}
    assert triggers == {"new data", "drift"}
    wait_for(lambda: find_trouble(plant.api, datetime.now(UTC)) == [], "worker and schedules are well", 60)


def test_the_week_starts_on_sunday_at_three(plant: Plant) -> None:
    wanted = {
        "deployments": {"id": {"any_": [deployment(plant, RETRAIN)["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    scheduled = wait_for(lambda: plant.ask("/flow_runs/filter", wanted)[1:], "runs are planned", 60)
    times = [datetime.fromisoformat(run["expected_start_time"]) for run in scheduled[:2]]
    assert (times[0].isoweekday(), times[0].hour, times[0].minute) == (7, 3, 0)
    assert times[1] - times[0] == timedelta(days=7)


def test_ten_images_in_the_inbox_lead_to_a_verdict_and_a_version(plant: Plant) -> None:
    for number in range(10):
        path = plant.root / "inbox" / ("good" if number < 6 else "dent") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 250, (40, 40), dtype=np.uint8)
        Image.fromarray(noise).save(path)

    taken = plant.end_of(plant.start_run("watch-inbox/watch-inbox", settle=0))  # as every five minutes

    assert (taken["name"], taken["message"]) == ("Added", "10 images added, 0 refused, 0 still arriving")
    training = {"deployment_id": {"any_": [deployment(plant, RETRAIN)["id"]]}}
    started = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
    run = wait_for(lambda: runs_of(plant, **training, **started), "new images start a retraining", 60)[0]
    end = plant.end_of(run["id"])
    assert (end["name"], run["created_by"]["type"]) == ("Promoted", "AUTOMATION"), end["message"]
    artifacts = {each["key"]: each for each in plant.ask("/artifacts/filter", {})}
    assert artifacts["verdict"]["data"].startswith("# PROMOTE: the first champion")
    assert "info    retraining: PROMOTE | the first detector" in (plant.root / "logs/notices.log").read_text()
    version = bundle_version(plant.detectors / "good")
    assert faults(plant, [run["id"]], version) == []  # among them: MLflow's champion is this version
    branch = git(plant.root, "branch", "--list", "retrain/*", "--format=%(refname:short)")
    assert "data/raw" in git(plant.root, "show", f"{branch}:dvc.lock")
    assert "dent/6.png" not in git(plant.root, "ls-files")  # DVC holds the images, git their hash
    assert git(plant.root, "log", "-1", "--format=%s") == "10 images from the inbox"


@pytest.mark.slow
def test_a_schedule_of_one_minute_fires_and_its_lock_is_committed(plant: Plant) -> None:
    before = git(plant.root, "branch", "--list", "retrain/*").splitlines()
    commit_change(plant.root, "half_blind", 1)
    path = f"/deployments/{deployment(plant, RETRAIN)['id']}/schedules"
    (schedule,) = plant.ask(path, [{"active": True, "schedule": {"cron": "* * * * *"}}])
    ours = {"deployment_id": {"any_": [deployment(plant, RETRAIN)["id"]]}}

    def fired() -> list[dict[str, Any]]:
        found = runs_of(plant, state={"type": {"not_any_": ["SCHEDULED"]}}, **ours)
        return [run for run in found if run["auto_scheduled"]]

    try:
        run = wait_for(fired, f"a run starts; {Background(plant.root, 'worker').log}", 300)[0]
    finally:
        plant.delete(f"{path}/{schedule['id']}")
    end = plant.end_of(run["id"])
    assert end["name"] in ("Promoted", "Rejected"), end["message"]  # by what served before
    (branch,) = set(git(plant.root, "branch", "--list", "retrain/*").splitlines()) - set(before)
    assert "round.txt" in git(plant.root, "show", f"{branch.strip()}:dvc.lock")


def test_inbox_and_drift_start_a_training_and_are_reported(plant: Plant, tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"] = {"root": "data/raw", "channels": 1, "classes": ["dent"]}
    content["merge"]["datasets"] = [{"adapter": "folder", "root": "."}]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    for name in ("later/good/a.png", "later/dent/cut.png", "inbox/dent/cut.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 250, (40, 40), dtype=np.uint8)).save(path)
        if path.stem == "cut":
            path.write_bytes(path.read_bytes()[:300])
    before = {run["id"] for run in runs_of(plant)}

    Line(tmp_path).runs(60, brighter=15)
    FeedbackLog(tmp_path / "scores").add(Feedback(id="part 06:01", defective=True))

    script = WATCH.format(root=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], env=clients(plant), capture_output=True, text=True, timeout=120
    )

    said = [line.partition(", p =")[0] for line in done.stdout.splitlines()]
    assert [line for line in said if line.startswith(("STATE", "TORCH"))] == [
        "STATE Refused | 0 images added, 1 refused, 0 still arriving",
        "STATE Added | 1 images added, 1 refused, 0 still arriving",
        "STATE Drift | drift in brightness: 60 images against 80 of the reference",
        "STATE Measured | 1 verdicts, 1 of them unlike the model's",
        "TORCH False",
    ], done.stdout + done.stderr
    assert (tmp_path / "data/raw/good/a.png").is_file()
    notices = (tmp_path / "logs/notices.log").read_text()
    assert "1 files from the inbox were refused" in notices
    assert "warning drift | drift in brightness" in notices
    artifacts = {each["key"] for each in plant.ask("/artifacts/filter", {})}
    assert {"refused", "drift", "drift-picture", "live"} <= artifacts
    training = deployment(plant, RETRAIN)["id"]

    def started() -> list[dict[str, Any]] | None:
        new = [run for run in runs_of(plant) if run["id"] not in before]
        found = [run for run in new if run["deployment_id"] == training and not run["auto_scheduled"]]
        return found if len(found) == 2 else None

    runs = wait_for(started, "the events data.new and drift.detected start a retraining each", 60)
    assert {run["created_by"]["type"] for run in runs} == {"AUTOMATION"}
    for run in runs:
        end = plant.end_of(run["id"])
        # What they would train with has had its verdict: they say so instead of training again
        assert (end["name"], end["message"][:28]) == ("Unchanged", "no new data, settings or cod")
    ours = [
        event
        for event in plant.ask("/events/filter", {"filter": {"event": {"name": ["data.new"]}}})["events"]
        if event["resource"]["prefect.resource.name"] == tmp_path.name
    ]
    assert len(ours) == 1, "an inbox of bad images alone starts no retraining"


@pytest.fixture(scope="module")
def service(plant: Plant) -> str:
    if current(plant.root) is None:  # these tests run alone
        plant.end_of(plant.start_run(RETRAIN))
    return start_service(plant)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kind"), [(10, "stage"), (11, "worker"), (12, "server"), (13, "server")])
def test_after_a_sigkill_this_or_the_next_run_completes_and_nothing_is_left(
    plant: Plant, service: str, number: int, kind: str
) -> None:
    """Alone and whole in turns; `benchmarks.kills` kills each ten times."""
    with asking(service) as client:
        record = play_round(plant, kind, number, share=0.3, duration=RUN_SECONDS)
    assert record["completed"], record
    assert record["faults"] == []
    assert set(client.answers) == {200}


@pytest.mark.slow
def test_a_retraining_outlives_a_killed_mlflow_server(plant: Plant) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    tracked = replace(plant, environment=clients(plant) | {"MLFLOW_TRACKING_URI": address})
    start_mlflow(tracked)
    commit_change(plant.root, "good", 20)
    promote(plant.root, plant.detectors / "half_blind", {})
    command = [sys.executable, "-m", "flows.run", "--retrain", "--root", str(plant.root)]
    flow = subprocess.Popen(command, env=tracked.environment, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(plant.stage, "the stage runs")
        strike(tracked, "mlflow", whole=True, pause=0)
        time.sleep(2)
        start_mlflow(tracked)
        output, _ = flow.communicate(timeout=600)  # on a slow machine MLflow alone is waited for so long
    finally:
        flow.kill()
    assert output.splitlines()[-1].startswith("Promoted: PROMOTE: better"), output
    assert registry_faults(tracked, bundle_version(plant.detectors / "good")) == []


def test_cancelling_a_run_on_the_server_ends_the_stage(
    toy: Path, plant: Plant, alive: Callable[[int], bool]
) -> None:
    pid_file = toy / "pid"
    definition = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(definition.replace("sleep 1 &&", "echo $$ > pid; sleep 120 &&"))
    with (toy / "log").open("w") as stream:
        flow = subprocess.Popen(
            [sys.executable, "-m", "flows.run", "--root", str(toy)],
            env=clients(plant),
            stdout=stream,
            stderr=stream,
        )
    wait_for(lambda: pid_file.is_file() and pid_file.read_text().strip(), f"slow runs; {toy / 'log'}", 120)
    pid = int(pid_file.read_text())
    assert alive(pid)
    running = runs_of(plant, state={"type": {"any_": ["RUNNING"]}})
    (run,) = (each for each in running if each["deployment_id"] is None)

    plant.ask(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})

    assert flow.wait(timeout=60) == 1, (toy / "log").read_text()
    assert not alive(pid)
    assert plant.state(run["id"])["type"] == "CANCELLED"
    assert "Cancelled: the running stages were ended" in (toy / "log").read_text()


def test_sigterm_of_the_worker_ends_stage_and_run_and_the_watchdog_misses_it(
    plant: Plant, alive: Callable[[int], bool]
) -> None:
    (plant.root / "seconds.txt").write_text("120")
    (plant.root / "round.txt").write_text("99")  # else DVC restores what an earlier round made
    run = plant.start_run(PIPELINE)
    stage = wait_for(plant.stage, f"the stage runs; {Background(plant.root, 'worker').log}", 120)
    worker = Background(plant.root, "worker").process()
    assert worker is not None

    os.kill(worker.pid, signal.SIGTERM)

    wait_for(lambda: not alive(worker.pid), "the worker ends", 90)
    assert not alive(stage.pid)
    assert plant.state(run)["type"] == "CRASHED"
    later = datetime.now(UTC) + timedelta(minutes=3)
    assert find_trouble(plant.api, later)[0].startswith("no worker runs")


def test_undeploy_ends_what_runs(plant: Plant) -> None:
    assert plant.command("undeploy") == "ended: watchdog, server\n"
    assert plant.command("undeploy") == "nothing of this project was running\n"
