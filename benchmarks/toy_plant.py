"""A toy project deployed as a plant has it: Prefect's server, worker and watchdog, MLflow, and a service.

Also what may be wrong with it, and somebody who asks the service all the time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from metaldefect.deploy.bundle import check_files, read_metadata
from metaldefect.errors import UserError
from pipeline.champion import CHAMPION, current
from pipeline.deployment import Background
from pipeline.orphans import processes_in
from pipeline.watchdog import call

ROOT = Path(__file__).resolve().parents[1]
RETRAIN = "retrain/retrain"
PATIENCE_SECONDS = 300.0
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(question: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask until the answer is true.

    Raises:
        UserError: it is not within the time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError):
            if answer := question():
                return answer
        time.sleep(0.2)
    raise UserError(f"not within {seconds:g} s: {what}")


def tree_of(process: psutil.Process | None) -> list[psutil.Process]:
    """A process with all its descendants."""
    try:
        return [] if process is None else [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(process: psutil.Process | None, whole: bool) -> None:
    """SIGKILL a process, alone or with all its descendants."""
    if process is None:
        raise UserError("what is to be killed does not run")
    for each in tree_of(process) if whole else [process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()


@dataclass
class Plant:
    """A deployed toy project.

    Attributes:
        root: the project.
        detectors: what its pipeline takes.
        environment: of all its processes.
        port: of Prefect's server.
        output: what the last deployment printed.
        helpers: further processes that belong to it, such as MLflow and the service.
    """

    root: Path
    detectors: Path
    environment: dict[str, str]
    port: int
    output: str = ""
    helpers: dict[str, psutil.Process] = field(default_factory=dict)

    @property
    def api(self) -> str:
        """URL of Prefect's API."""
        return f"http://127.0.0.1:{self.port}/api"

    def command(self, *words: str) -> str:
        """Run a command of `metaldefect` for this project; returns what it prints.

        Raises:
            UserError: it fails.
        """
        line = [sys.executable, "-m", "pipeline.cli", *words, "--root", str(self.root)]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"metaldefect {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def deploy(self) -> None:
        """Start what does not run, as `make deploy` does."""
        self.output = self.command("deploy", "--port", str(self.port))

    def start(self, name: str, arguments: list[str], ready: str) -> None:
        """Start a helper and wait until its page answers."""
        with (self.root / f".prefect/{name}.log").open("ab") as stream:
            child = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self.root,
                env=self.environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.helpers[name] = psutil.Process(child.pid)
        wait_for(lambda: urllib.request.urlopen(ready, timeout=5), f"{name} answers at {ready}")

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer of Prefect's API, which is 503 while its database is locked."""
        return wait_for(lambda: [call(self.api, path, body)], f"{path} answers", 60)[0]

    def delete(self, path: str) -> None:
        """Delete what Prefect's API holds under a path; what an earlier try deleted is gone as well."""

        def gone() -> bool:
            try:
                urllib.request.urlopen(urllib.request.Request(self.api + path, method="DELETE"), timeout=30)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise
            return True

        wait_for(gone, f"{path} is deleted", 60)

    def start_run(self, deployment: str = RETRAIN, **parameters: Any) -> str:
        """Let the worker take a run of a deployment; returns its id."""
        number = self.ask(f"/deployments/name/{deployment}")["id"]
        path = f"/deployments/{number}/create_flow_run"
        return str(self.ask(path, {"parameters": parameters})["id"])

    def state(self, run: str) -> dict[str, Any]:
        """The state of a flow run."""
        return dict(self.ask(f"/flow_runs/{run}")["state"])

    def end_of(self, run: str) -> dict[str, Any]:
        """The final state of a flow run."""

        def final() -> dict[str, Any] | None:
            state = self.state(run)
            return state if state["type"] in FINAL else None

        found: dict[str, Any] = wait_for(final, f"run {run} ends; see {Background(self.root, 'worker').log}")
        return found

    def stage(self) -> psutil.Process | None:
        """The process of the stage that takes a while, if it runs now."""
        for process in processes_in(self.root):
            with suppress(psutil.Error):
                words = process.cmdline()
                if words[1:2] == ["take.py"] and words[-1] == "models/openvino":
                    return process
        return None

    def own_processes(self) -> set[int]:
        """Ids of all processes that are meant to run while no flow run does.

        Of the worker these are the two that make it, ours and Prefect's: what is below them is a flow run.
        """
        found = [each for top in self.helpers.values() for each in tree_of(top)]
        for name in ("server", "watchdog"):
            found += tree_of(Background(self.root, name).process())
        worker = Background(self.root, "worker").process()
        if worker is not None:
            with suppress(psutil.NoSuchProcess):
                found += [worker, *worker.children()]
        return {each.pid for each in found}

    def strangers(self) -> list[str]:
        """Processes in the project's folder that nobody is responsible for."""
        own, found = self.own_processes(), []
        for process in processes_in(self.root):
            with suppress(psutil.Error):
                if process.pid not in own:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        return found

    def stop(self) -> None:
        """End everything."""
        with suppress(UserError):
            self.command("undeploy")
        for process in self.helpers.values():
            kill(process, whole=True)


def start_mlflow(plant: Plant) -> None:
    """Start the MLflow server that `MLFLOW_TRACKING_URI` names."""
    address = plant.environment["MLFLOW_TRACKING_URI"]
    words = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{plant.root}/mlruns/server.db"]
    words += ["--artifacts-destination", f"{plant.root}/mlruns/server", "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    plant.start("mlflow", words, f"{address}/health")


def start_service(plant: Plant) -> str:
    """Start a service that follows the champion; returns its address."""
    port = free_port()
    words = ["pipeline.cli", "serve", "--model", str(CHAMPION), "--precision", "fp32", "--follow"]
    address = f"http://127.0.0.1:{port}"
    plant.start("service", [*words, "--port", str(port)], f"{address}/health")
    return address


def faults(plant: Plant, runs: list[str], expected: str) -> list[str]:
    """What is wrong after a round: one line each, which begins with its kind.

    Args:
        plant: the plant.
        runs: ids of the round's flow runs.
        expected: version of the detector that should serve.
    """
    found = []
    champion = current(plant.root)
    if champion is None or champion.name != expected:
        found.append(f"half-promoted: {champion} serves")
    else:
        metadata = read_metadata(champion)
        try:
            check_files(champion, metadata, list(metadata.sha256))
        except UserError as error:
            found.append(f"half-promoted: {error}")
        found += registry_faults(plant, expected)
    for run in runs:
        parts = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
        states = [plant.state(run), *(part["state"] for part in plant.ask("/flow_runs/filter", parts))]
        found += [f"lost run: {state['name']}" for state in states if state["type"] not in FINAL]
    try:
        wait_for(lambda: not plant.strangers(), "no process is left", 30)
    except UserError:
        found += [f"orphan: {line}" for line in plant.strangers()]
    left = list((plant.root / ".dvc/tmp/retrain").glob("*"))
    return found + [f"left over: {path.name}" for path in left]


def registry_faults(plant: Plant, expected: str) -> list[str]:
    """Whether MLflow's alias is where the link leads, and no run of MLflow says Running."""
    script = (
        "import json, mlflow; from pipeline.run import connect_tracking; connect_tracking()\n"
        "client = mlflow.MlflowClient(); experiment = client.get_experiment_by_name('metaldefect')\n"
        "running = client.search_runs([experiment.experiment_id], \"attributes.status = 'RUNNING'\")\n"
        "champion = client.get_model_version_by_alias('metaldefect-detector', 'champion')\n"
        "print(json.dumps([champion.tags['bundle'], len(running)]))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=plant.root, env=plant.environment, capture_output=True, text=True)
    if done.returncode:
        return [f"half-promoted: the registry does not answer: {done.stderr.strip().splitlines()[-1]}"]
    alias, running = json.loads(done.stdout.splitlines()[-1])
    found = [] if alias == expected else [f"half-promoted: the alias champion is on {alias}"]
    return found + [f"lost run: {running} of MLflow say Running"] * bool(running)


@dataclass
class Client:
    """Somebody who asks the service all the time.

    Attributes:
        answers: by HTTP status, 0 where there was none.
        versions: of the models that answered.
    """

    address: str
    answers: Counter[int] = field(default_factory=Counter)
    versions: set[str] = field(default_factory=set)

    def ask(self, body: bytes) -> None:
        """Send an image."""
        request = urllib.request.Request(f"{self.address}/predict", body)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                self.versions.add(str(json.load(answer)["model_version"]))
                self.answers[answer.status] += 1
        except urllib.error.HTTPError as error:
            self.answers[error.code] += 1
        except OSError:
            self.answers[0] += 1


@contextmanager
def asking(address: str, pause: float = 0.2) -> Iterator[Client]:
    """Ask the service from another thread until the block ends."""
    buffer = BytesIO()
    Image.fromarray(np.full((64, 64), 128, np.uint8)).save(buffer, "PNG")
    client, stop = Client(address), threading.Event()

    def run() -> None:
        while not stop.wait(pause):
            client.ask(buffer.getvalue())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield client
    finally:
        stop.set()
        thread.join()


def plant_environment(folder: Path, mlflow: bool) -> dict[str, str]:
    """An environment that points to no server but the plant's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "METALDEFECT_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "project/.prefect"),
        "DVC_GLOBAL_CONFIG_DIR": str(folder / "dvc-config"),
        "DVC_SITE_CACHE_DIR": str(folder / "dvc-site"),
        "DVC_NO_ANALYTICS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        **({"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"} if mlflow else {}),
    }
