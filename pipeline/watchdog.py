"""The dead-man's switch: notices a dead server, a worker that is gone, a schedule that did not fire.

It runs beside Prefect, not in it, and asks its API: a flow cannot report that flows no longer run.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from metaldefect.artifacts import atomic_file, read_json, write_json
from metaldefect.config import Config
from pipeline.notify import notify
from pipeline.prefect_settings import PREFECT_DIRECTORY

POOL = "metal"
STATE = Path(".prefect/watchdog.json")
API_URL = "api_url"  # file in `.prefect`
TIMEOUT_SECONDS = 10.0
# A worker says every 30 s that it lives
WORKER_SILENCE = timedelta(seconds=120)
# A run that waits longer for its start than this has no worker, or a server that does not schedule
LATE = timedelta(minutes=10)
# Of flows without the parameter `limit_hours`: the timeout of the slowest of them
OTHER_LIMIT_HOURS = 1.0
REMIND = timedelta(days=1)

Deployment = Mapping[str, Any]


class WatchdogState(Config):
    """What has been reported already.

    Attributes:
        reported: when each trouble was reported last, by its text.
        failures: the same for failed runs: one that fails every five minutes is one notice per day.
        failures_until: end of the newest failed run that was looked at.
    """

    reported: dict[str, datetime] = Field(default={})
    failures: dict[str, datetime] = Field(default={})
    failures_until: datetime | None = None


UNSAVED: dict[Path, WatchdogState] = {}  # states that could not be written


def api_url(root: Path) -> str:
    """Where Prefect's API is: `PREFECT_API_URL`, else where the project was deployed, else the usual port."""
    if given := os.environ.get("PREFECT_API_URL"):
        return given
    noted = root / PREFECT_DIRECTORY / API_URL
    return noted.read_text(encoding="utf-8").strip() if noted.is_file() else "http://127.0.0.1:4200/api"


def note_api_url(root: Path, api: str) -> None:
    """Write down where a project's server is, for commands in another shell."""
    with atomic_file(root / PREFECT_DIRECTORY / API_URL) as temporary:
        temporary.write_text(f"{api}\n", encoding="utf-8")


def call(api: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """The answer of Prefect's API: a GET, or a POST with a JSON body.

    Raises:
        OSError: it does not answer, refuses, or ends in the middle of its answer.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    request = urllib.request.Request(f"{api}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            text = answer.read()
    except HTTPException as error:  # of a server that was killed meanwhile; it is no OSError
        raise OSError(f"its answer is broken: {error!r}") from error
    return json.loads(text) if text else None


def answers(api: str) -> bool:
    """Whether Prefect's API answers."""
    try:
        return bool(call(api, "/health"))
    except (OSError, ValueError):
        return False


def find_trouble(api: str, now: datetime, root: Path | None = None) -> list[str]:
    """What is wrong now, one sentence each; empty if all is well.

    Args:
        api: URL of Prefect's API.
        now: the time.
        root: the project's folder, whose `prefect.yaml` says what must be deployed; None: nothing must.
    """
    if not answers(api):
        return [f"the Prefect server at {api} does not answer: type `metaldefect deploy`"]
    try:
        known = {each["id"]: each for each in call(api, "/deployments/filter", {})}
        missing = missing_deployments(known, root) if root is not None else []
        return [
            *worker_trouble(api, now),
            *missing,
            *late_runs(api, now, known),
            *blocked_runs(api, now, known),
            *dead_schedules(api, known),
        ]
    except (OSError, ValueError) as error:
        return [f"the Prefect server at {api} refuses to answer: {error}"]


def worker_trouble(api: str, now: datetime) -> list[str]:
    """Whether no worker of the pool has lately said that it lives."""
    try:
        workers = call(api, f"/work_pools/{POOL}/workers/filter", {})
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return [f"there is no work pool {POOL!r}: type `metaldefect deploy`"]
    beats = [instant(worker["last_heartbeat_time"]) for worker in workers if worker["last_heartbeat_time"]]
    if any(now - beat < WORKER_SILENCE for beat in beats):
        return []
    return ["no worker runs: nothing that is due will start; type `metaldefect deploy`"]


def missing_deployments(known: Mapping[str, Deployment], root: Path) -> list[str]:
    """Whether the server has lost what `prefect.yaml` deploys, as one does whose database was replaced."""
    path = root / "prefect.yaml"
    try:
        content = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}
    except yaml.YAMLError as error:
        return [f"{path} cannot be read: {' '.join(str(error).split())}"]
    names = {each["name"] for each in known.values()}
    missing = [each["name"] for each in content.get("deployments", ()) if each["name"] not in names]
    lost = f"the server has no deployment {', '.join(missing)}: type `metaldefect deploy`"
    return [lost] if missing else []


def waiting_runs(api: str, states: Sequence[str], before: datetime) -> list[dict[str, Any]]:
    """Runs in a waiting state of one of these names that should have started before a time."""
    condition = {
        "state": {"type": {"any_": ["SCHEDULED"]}, "name": {"any_": states}},
        "expected_start_time": {"before_": before.isoformat()},
    }
    found: list[dict[str, Any]] = call(api, "/flow_runs/filter", {"flow_runs": condition, "limit": 20})
    return found


def late_runs(api: str, now: datetime, known: Mapping[str, Deployment]) -> list[str]:
    """Runs that should have started and that nobody takes."""
    runs = waiting_runs(api, ["Scheduled", "Late"], now - LATE)
    late = sorted({name_of(run, known) for run in runs})
    minutes = LATE.seconds // 60
    return [f"{name} was due more than {minutes} minutes ago and has not started" for name in late]


def blocked_runs(api: str, now: datetime, known: Mapping[str, Deployment]) -> list[str]:
    """Runs that have waited for their deployment's only place for longer than a run may take.

    A place that a dead run keeps would hold up all later ones without a word.
    """
    troubles = set()
    for run in waiting_runs(api, ["AwaitingConcurrencySlot"], now - LATE):
        parameters = known.get(run["deployment_id"], {}).get("parameters") or {}
        hours = float(parameters.get("limit_hours", OTHER_LIMIT_HOURS))
        if now - instant(run["expected_start_time"]) > timedelta(hours=hours):
            troubles.add(
                f"{name_of(run, known)} has waited more than {hours:g} h, the longest that a run takes, for"
                " another run of it to end: cancel that run in Prefect, then restart the worker"
            )
    return sorted(troubles)


def dead_schedules(api: str, known: Mapping[str, Deployment]) -> list[str]:
    """Deployments with a schedule for which the server plans no run."""
    troubles = []
    for deployment in known.values():
        active = [schedule for schedule in deployment["schedules"] if schedule["active"]]
        if not active or deployment["paused"]:
            continue
        planned = {
            "deployments": {"id": {"any_": [deployment["id"]]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}},
            "limit": 1,
        }
        if not call(api, "/flow_runs/filter", planned):
            name = deployment["name"]
            troubles.append(f"{name} has a schedule, but the server plans no run of it: restart the server")
    return troubles


def name_of(run: Mapping[str, Any], known: Mapping[str, Deployment]) -> str:
    """The name of a run's deployment, or the run's own if it has none."""
    return str(known.get(run["deployment_id"], run)["name"])


def failed_runs(api: str, since: datetime) -> list[tuple[datetime, str]]:
    """Failed and crashed runs since a time, oldest first: when, and why."""
    condition = {
        "state": {"type": {"any_": ["FAILED", "CRASHED"]}},
        "end_time": {"after_": since.isoformat()},
    }
    try:
        runs = call(api, "/flow_runs/filter", {"flow_runs": condition, "sort": "END_TIME_DESC", "limit": 20})
        known = {each["id"]: each for each in call(api, "/deployments/filter", {})}
    except (OSError, ValueError):  # they are found by the next look
        return []
    found = []
    for run in reversed(runs):
        message = (run["state"]["message"] or "").strip()
        name = name_of(run, known)
        found.append((instant(run["end_time"]), f"{name} {run['state']['name'].lower()}\n{message}"))
    return found


def instant(text: str) -> datetime:
    """A time from the API."""
    return datetime.fromisoformat(text)


def watch_once(root: Path, api: str, now: datetime | None = None) -> list[str]:
    """Report what is newly wrong, what is well again, and runs that failed since the last look.

    Args:
        root: the project's folder.
        api: URL of Prefect's API.
        now: the time; None: the clock's.

    Returns:
        What is wrong, reported now or before.
    """
    now = now or datetime.now(UTC)
    path = root / STATE
    state = UNSAVED.pop(path, None) or read_state(path)
    troubles = find_trouble(api, now, root)
    reported: dict[str, datetime] = {}
    known = recent(state.reported, now)
    for trouble in troubles:
        if trouble not in known:
            notify("retraining stands still", trouble, "error", root)
        reported[trouble] = known.get(trouble, now)
    for trouble in state.reported.keys() - reported.keys():
        notify("well again", f"no longer true: {trouble}", "info", root)
    until, failures = state.failures_until or now, recent(state.failures, now)
    for ended, text in failed_runs(api, until):
        until = max(until, ended)
        if text not in failures:
            title, _, detail = text.partition("\n")
            notify(title, detail, "error", root)
            failures[text] = now
    new = WatchdogState(reported=reported, failures=failures, failures_until=until)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, new.model_dump(mode="json"))
    except OSError as error:  # a full disk: without a state, each look would report everything again
        print(f"{path} cannot be written: {error}", file=sys.stderr)
        UNSAVED[path] = new
    return troubles


def read_state(path: Path) -> WatchdogState:
    """What earlier looks reported."""
    return WatchdogState.parse(read_json(path), str(path)) if path.is_file() else WatchdogState()


def recent(reported: Mapping[str, datetime], now: datetime) -> dict[str, datetime]:
    """What was reported less than a day ago."""
    return {text: at for text, at in reported.items() if now - at < REMIND}


def watch(root: Path, api: str, seconds: float) -> None:
    """Look every so many seconds, the first time after one such pause, for ever; a look may fail."""
    while True:
        time.sleep(seconds)
        try:
            watch_once(root, api)
        except Exception:  # nobody would notice that the watchdog is gone
            traceback.print_exc()
