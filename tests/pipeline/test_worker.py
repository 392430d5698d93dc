"""Background processes: a worker ends its flow runs before itself, and nothing is left of any of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from metaldefect.errors import UserError
from pipeline import deployment
from pipeline.dead_runs import birth_of, is_gone, process_tag
from pipeline.deployment import Background, deploy

# A worker as Prefect's, which SIGTERM ends at once; its flow run ends its stage and then reports
WORKER = """\
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", open("flow.py").read()])
time.sleep(300)
"""
FLOW = """\
import os, pathlib, signal, subprocess, sys, time
stage = subprocess.Popen(["sleep", "300"], start_new_session=True)
def end(*_):
    stage.terminate()
    stage.wait()
    time.sleep(0.5)
    pathlib.Path("state").write_text("CRASHED, worker " + str(os.getppid()))
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").write_text(f"{os.getpid()} {stage.pid} {os.getppid()}")
time.sleep(300)
"""
RUN = """\
import sys
from pathlib import Path
from pipeline.worker import run_worker
sys.exit(run_worker(Path(sys.argv[1]), [sys.executable, "-c", open("worker.py").read()]) and 0)
"""


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.05)
    return path.read_text()


def test_sigterm_of_the_worker_ends_flow_run_and_stage_and_the_state_is_reported(
    tmp_path: Path, environment: dict[str, str], alive: Callable[[int], bool]
) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "flow.py").write_text(FLOW)
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], cwd=tmp_path, env=environment)
    flow, stage, worker = map(int, wait_for(tmp_path / "ready").split())
    assert all(map(alive, (flow, stage, worker)))

    process.send_signal(signal.SIGTERM)

    assert process.wait(60) == 0
    # the flow run could still report, because its worker was there until it had
    assert (tmp_path / "state").read_text() == f"CRASHED, worker {worker}"
    assert not any(map(alive, (flow, stage, worker)))


def test_a_background_process_is_found_again_and_ended_whole(
    tmp_path: Path, alive: Callable[[int], bool]
) -> None:
    background = Background(tmp_path, "server")
    assert (background.process(), background.stop()) == (None, False)
    assert background.start(["http.server", "--bind", "127.0.0.1", "0"])
    assert not background.start(["http.server"]), "it runs already"
    found = Background(tmp_path, "server").process()
    assert found is not None
    assert Background(tmp_path, "server").stop()
    assert not alive(found.pid)
    assert not background.record.exists()


def test_an_id_that_the_system_used_again_is_another_process(tmp_path: Path) -> None:
    background = Background(tmp_path, "worker")
    background.record.parent.mkdir()
    own = psutil.Process()
    background.record.write_text(json.dumps({"pid": own.pid, "started": "another boot:1"}))
    assert background.process() is None
    assert not background.stop()


def test_another_projects_server_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", environment["PREFECT_HOME"])
    with pytest.raises(UserError, match=r"prefect\.yaml does not exist: name the project's folder"):
        deploy(tmp_path)
    (tmp_path / "prefect.yaml").write_text("deployments: []\n")
    monkeypatch.setattr(deployment, "answers", lambda _api: True)
    with pytest.raises(
        UserError, match=r"another project's Prefect server answers at http://127\.0\.0\.1:4300"
    ):
        deploy(tmp_path, 4300)


@pytest.fixture
def deployable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """A project that deploys nothing, and no server that the environment names."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", environment["PREFECT_HOME"])
    (tmp_path / "prefect.yaml").write_text("deployments: []\n")


@pytest.mark.usefixtures("deployable")
def test_this_projects_server_on_another_port_is_named_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Background(tmp_path, "server")
    server.start(["http.server", "--bind", "127.0.0.1", "0"])
    # Whether or not another project's server answers on the port that is asked for
    for answered in (True, False):
        monkeypatch.setattr(deployment, "answers", lambda _api, answered=answered: answered)
        with pytest.raises(UserError, match=r"runs on port 0: type `metaldefect deploy --port 0`"):
            deploy(tmp_path, 4300)
    assert server.process() is not None
    assert server.stop()


@pytest.mark.usefixtures("deployable")
def test_where_something_else_runs_the_three_only_the_flows_are_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []
    beats = iter([False, False, True])
    monkeypatch.setattr(deployment, "answers", lambda _api: next(beats))
    monkeypatch.setattr(deployment, "call", lambda *_: [])
    monkeypatch.setattr(deployment, "prefect", lambda _root, *words: called.append(words))
    monkeypatch.setattr(Background, "start", lambda *_: pytest.fail("starts a process"))
    assert "http://127.0.0.1:4200" in deploy(tmp_path, flows_only=True)
    assert [words[0] for words in called] == ["work-pool", "--no-prompt"]


def test_a_server_that_the_environment_names_must_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    (tmp_path / "prefect.yaml").write_text("deployments: []\n")
    monkeypatch.setenv("PREFECT_HOME", environment["PREFECT_HOME"])
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(UserError, match=r"PREFECT_API_URL=http://127\.0\.0\.1:9/api does not answer"):
        deploy(tmp_path)


def test_a_clock_that_is_set_makes_no_living_process_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag, background = process_tag(), Background(tmp_path, "worker")
    background.record.parent.mkdir()
    background.record.write_text(json.dumps({"pid": os.getpid(), "started": birth_of(os.getpid())}))
    monkeypatch.setattr(psutil.Process, "create_time", lambda _self: 4e9)
    assert not is_gone(tag)
    assert background.process() is not None
    assert is_gone(f"{tag}0")


@pytest.mark.usefixtures("deployable")
def test_another_projects_deployments_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: retrain}]\n")
    other = tmp_path / "other"
    known = [{"name": "retrain", "path": str(other), "pull_steps": None}]
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(deployment, "answers", lambda _api: True)
    monkeypatch.setattr(deployment, "call", lambda *_: known)
    monkeypatch.setattr(deployment, "prefect", lambda _root, *words: called.append(words))
    deploy(tmp_path, flows_only=True)  # its folder is gone: the project was moved
    assert len(called) == 2
    other.mkdir()
    with pytest.raises(UserError, match=f"runs the deployments of {other}, and this project's would replace"):
        deploy(tmp_path, flows_only=True)
    assert len(called) == 2
