"""Server, worker and watchdog on this machine: start what does not run, deploy all flows, end it again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from metaldefect.errors import UserError
from pipeline.dead_flow_runs import folder_of
from pipeline.dead_runs import birth_of, is_born
from pipeline.inbox import INBOX
from pipeline.orphans import FLOW, WORKER, processes_in, stop_all, stop_orphans
from pipeline.prefect_settings import PREFECT_DIRECTORY, migrate_database, prepare_environment
from pipeline.watchdog import POOL, answers, call, note_api_url

PORT = 4200
START_SECONDS = 120.0
STOP_SECONDS = 100.0


@dataclass(frozen=True)
class Background:
    """A process that outlives the command that started it.

    Attributes:
        root: the project's folder; `.prefect` in it holds the process's id and its output.
        name: `server`, `worker` or `watchdog`.
    """

    root: Path
    name: str

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.root / PREFECT_DIRECTORY / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """Its id and birth: a system uses ids again."""
        return self.root / PREFECT_DIRECTORY / f"{self.name}.pid"

    def process(self) -> psutil.Process | None:
        """The process, if it runs."""
        try:
            known = json.loads(self.record.read_text(encoding="ascii"))
            return psutil.Process(known["pid"]) if is_born(known["pid"], str(known["started"])) else None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None

    def end_leftovers(self) -> None:
        """End what a killed process left in its session, such as the server's child that holds the port."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            session = json.loads(self.record.read_text(encoding="ascii"))["pid"]
            if has_ended(session):
                stop_all(each for each in processes_in(self.root) if session_of(each) == session)

    def start(self, arguments: list[str]) -> bool:
        """Start `python -m <arguments>`, unless it runs; returns whether it was started."""
        if self.process() is not None:
            return False
        self.end_leftovers()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stream:
            child = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        record = {"pid": child.pid, "started": birth_of(child.pid)}
        self.record.write_text(json.dumps(record), encoding="ascii")
        return True

    def stop(self) -> bool:
        """SIGTERM, then SIGKILL for what is left; returns whether anything ran."""
        process = self.process()
        if process is None:
            self.end_leftovers()
        self.record.unlink(missing_ok=True)
        if process is None:
            return False
        everything = [process, *process.children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs([process], STOP_SECONDS)
        for other in everything:
            if other.is_running():
                other.kill()
        psutil.wait_procs([*left, *everything], 10)
        return True


def has_ended(number: int) -> bool:
    """Whether a process has ended; one whose parent has not noticed still has its id."""
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def session_of(process: psutil.Process) -> int | None:
    """The session of a process; None once it has ended."""
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def deploy(root: Path, port: int = PORT, flows_only: bool = False) -> str:
    """Start server, worker and watchdog where they do not run, and deploy all flows.

    Args:
        root: the project's folder, with `prefect.yaml`.
        port: of the server; ignored where `PREFECT_API_URL` names one.
        flows_only: something else, such as systemd, runs the three; wait for the server, and deploy.

    Returns:
        What runs now, and what to do next.

    Raises:
        UserError: there is no `prefect.yaml`, the port belongs to another server, or Prefect refuses.
    """
    if not (root / "prefect.yaml").is_file():
        raise UserError(f"{root / 'prefect.yaml'} does not exist: name the project's folder with --root")
    prepare_environment(root)
    given = os.environ.get("PREFECT_API_URL")
    api = given or f"http://127.0.0.1:{port}/api"
    lines = [] if given or flows_only else [start_server(root, api, port)]
    os.environ["PREFECT_API_URL"] = api
    if not answers_soon(api, START_SECONDS if flows_only else 0.0):
        named = f"PREFECT_API_URL={api} does not answer: start that server, or unset the variable"
        raise UserError(named if given else f"no server answers at {api} yet: start it first")
    refuse_others_deployments(root, api)
    if not given:
        note_api_url(root, api)
    prefect(root, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    prefect(root, "--no-prompt", "deploy", "--all")
    if flows_only:
        return f"deployed; open {api.removesuffix('/api')} to watch"
    worker = Background(root, "worker").start(["pipeline.cli", "worker"])
    watchdog = Background(root, "watchdog").start(["pipeline.cli", "watchdog"])
    (root / INBOX).mkdir(exist_ok=True)
    return "\n".join(
        [
            *lines,
            f"worker    {'started' if worker else 'runs already'}, pool {POOL!r}",
            f"watchdog  {'started' if watchdog else 'runs already'}: what stands still is reported",
            "",
            f"Open {api.removesuffix('/api')} to watch. Images that you drop into {INBOX}/<class>/ start a"
            " retraining.",
            f"For prefect's own commands: export PREFECT_API_URL={api}",
            "`make undeploy` (or `metaldefect undeploy`) ends all three.",
        ]
    )


def refuse_others_deployments(root: Path, api: str) -> None:
    """Raise `UserError` if another folder's deployments on this server have the names of this project's.

    A server knows one deployment of each name: deploying here would end the other project's schedules.
    """
    names = {each["name"] for each in yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]}
    for deployment in call(api, "/deployments/filter", {}):
        folder = folder_of(deployment)
        if deployment["name"] not in names or folder is None or folder.resolve() == root.resolve():
            continue
        if folder.is_dir():  # else the project was moved here
            raise UserError(
                f"{api} runs the deployments of {folder}, and this project's would replace them: use another"
                " server, such as one of this project's own (unset PREFECT_API_URL and choose a port)"
            )


def answers_soon(api: str, seconds: float) -> bool:
    """Whether a server answers, or begins to within so many seconds."""
    deadline = time.monotonic() + seconds
    while not answers(api):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.5)
    return True


def start_server(root: Path, api: str, port: int) -> str:
    """Start the server unless this project's runs; say which.

    Raises:
        UserError: another program has the port, this project's server runs on another one, or the server
            does not start.
    """
    server = Background(root, "server")
    server.end_leftovers()
    page = api.removesuffix("/api")
    running = server.process()
    if running is not None and (own := running.cmdline()[-1]) != str(port):
        raise UserError(
            f"this project's server runs on port {own}: type `metaldefect deploy --port {own}`, or end it"
            " with `metaldefect undeploy` first"
        )
    if running is None and answers(api):
        raise UserError(
            f"another project's Prefect server answers at {page}: choose another port (`make deploy"
            f" PORT=4201`, `metaldefect deploy --port 4201`)"
        )
    migrate_database()
    started = server.start(["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)])
    deadline = time.monotonic() + START_SECONDS
    while not answers(api):
        if server.process() is None or time.monotonic() > deadline:
            server.stop()
            raise UserError(f"the Prefect server did not start; the end of {server.log} says why")
        time.sleep(0.5)
    return f"server    {'started' if started else 'runs already'}: {page}"


def prefect(root: Path, *arguments: str) -> None:
    """Run a command of Prefect.

    Raises:
        UserError: it fails.
    """
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise UserError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def undeploy(root: Path) -> str:
    """End watchdog, worker and server, in this order; flow runs end their stages and report it."""
    ended = [name for name in ("watchdog", "worker", "server") if Background(root, name).stop()]
    if stop_orphans(root, WORKER, FLOW):
        ended.append("what a killed worker had left")
    return f"ended: {', '.join(ended)}" if ended else "nothing of this project was running"
