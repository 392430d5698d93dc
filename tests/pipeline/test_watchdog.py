"""The dead-man's switch: each thing that stands still is reported once, and so is that it is well again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline import watchdog as module
from pipeline.cli import main
from pipeline.watchdog import api_url, call, find_trouble, note_api_url, watch, watch_once

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 2, 3, 30, tzinfo=UTC)
DEPLOYMENT = {
    "id": "d1",
    "name": "retrain",
    "paused": False,
    "schedules": [{"active": True}],
    "parameters": {"limit_hours": 24},
}


class FakeServer(ThreadingHTTPServer):
    """Answers Prefect's routes from what a test has put there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heartbeat: datetime | None = NOW - timedelta(seconds=20)
        self.late: list[dict[str, Any]] = []
        self.blocked: list[dict[str, Any]] = []
        self.authorization: str | None = None
        self.is_busy = False
        self.is_killed = False
        self.failed: list[dict[str, Any]] = []
        self.planned: list[dict[str, Any]] = [{"id": "r1"}]
        self.asked: list[dict[str, Any]] = []

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api"

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/api/health":
            return True
        if path == "/api/work_pools/metal/workers/filter":
            return [{"last_heartbeat_time": self.heartbeat and self.heartbeat.isoformat()}]
        if path == "/api/deployments/filter":
            return [DEPLOYMENT]
        assert path == "/api/flow_runs/filter", path
        self.asked.append(body)
        condition = body["flow_runs"]
        if "expected_start_time" in condition:
            names = condition["state"]["name"]["any_"]
            return self.blocked if names == ["AwaitingConcurrencySlot"] else self.late
        return self.failed if "end_time" in condition else self.planned


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.reply({})

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, body: dict[str, Any]) -> None:
        if self.server.is_killed and self.path != "/api/health":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"[{}")
            return
        if self.server.is_busy and "end_time" in body.get("flow_runs", {}):
            self.send_error(503)
            return
        if self.headers["Authorization"] != self.server.authorization:
            self.send_error(401)
            return
        text = json.dumps(self.server.answer(self.path, body)).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    for name in ("WEBHOOK", "EMAIL"):
        monkeypatch.delenv(f"METALDEFECT_NOTIFY_{name}", raising=False)
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def notices(root: Path) -> list[str]:
    """What was reported, without the time."""
    path = root / "logs/notices.log"
    return [line.split(" ", 1)[1] for line in path.read_text().splitlines()] if path.is_file() else []


def test_all_is_well(server: FakeServer) -> None:
    assert find_trouble(server.api, NOW) == []


def test_a_worker_that_is_gone_is_reported_once_and_that_it_is_back(
    server: FakeServer, tmp_path: Path
) -> None:
    server.heartbeat = NOW - timedelta(minutes=5)
    trouble = "no worker runs: nothing that is due will start; type `metaldefect deploy`"
    for minute in range(3):
        assert watch_once(tmp_path, server.api, NOW + timedelta(minutes=minute)) == [trouble]
    assert notices(tmp_path) == [f"error   retraining stands still | {trouble}"]
    watch_once(tmp_path, server.api, NOW + timedelta(days=1, minutes=1))
    assert len(notices(tmp_path)) == 2, "a day later it is said again"
    server.heartbeat = NOW + timedelta(days=1, minutes=2)
    assert watch_once(tmp_path, server.api, server.heartbeat) == []
    assert notices(tmp_path)[-1] == f"info    well again | no longer true: {trouble}"


def test_a_schedule_that_did_not_fire_is_named(server: FakeServer) -> None:
    server.late = [{"name": "brave-bee", "deployment_id": "d1"}]
    assert find_trouble(server.api, NOW) == ["retrain was due more than 10 minutes ago and has not started"]
    condition = server.asked[0]["flow_runs"]
    assert condition["expected_start_time"] == {"before_": "2026-11-02T03:20:00+00:00"}


def test_a_schedule_that_plans_nothing_is_named(server: FakeServer) -> None:
    server.planned = []
    assert find_trouble(server.api, NOW) == [
        "retrain has a schedule, but the server plans no run of it: restart the server"
    ]


def test_a_server_that_lost_its_deployments_is_not_well(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text("deployments: [{name: retrain}, {name: watch-inbox}, {name: watch-drift}]\n")
    assert watch_once(tmp_path, server.api, NOW) == [
        "the server has no deployment watch-inbox, watch-drift: type `metaldefect deploy`"
    ]
    file.write_text("deployments: [{name: retrain}]\n")
    assert watch_once(tmp_path, server.api, NOW) == []
    file.write_text("deployments: [\n")
    assert watch_once(tmp_path, server.api, NOW)[0].startswith(f"{file} cannot be read: ")


def test_a_run_that_waits_for_a_leaked_place_is_named(server: FakeServer) -> None:
    """A training of 24 h may keep the next one waiting that long, and no longer."""
    waiting = {"name": "brave-bee", "deployment_id": "d1"}
    server.blocked = [waiting | {"expected_start_time": (NOW - timedelta(hours=23)).isoformat()}]
    assert find_trouble(server.api, NOW) == []
    server.blocked = [waiting | {"expected_start_time": (NOW - timedelta(hours=25)).isoformat()}]
    assert find_trouble(server.api, NOW) == [
        "retrain has waited more than 24 h, the longest that a run takes, for another run of it to end:"
        " cancel that run in Prefect, then restart the worker"
    ]


def test_a_server_with_a_password_is_asked_with_it(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.authorization = "Basic YWRtaW46cGFzcw=="
    assert find_trouble(server.api, NOW)[0].endswith("does not answer: type `metaldefect deploy`")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
    assert find_trouble(server.api, NOW) == []


def test_a_dead_server_is_reported(server: FakeServer, tmp_path: Path) -> None:
    assert watch_once(tmp_path, "http://127.0.0.1:9/api", NOW) == [
        "the Prefect server at http://127.0.0.1:9/api does not answer: type `metaldefect deploy`"
    ]
    assert notices(tmp_path)[0].startswith("error   retraining stands still | the Prefect server at")


def test_a_failed_run_is_reported_with_its_cause_and_not_every_five_minutes(
    server: FakeServer, tmp_path: Path
) -> None:
    watch_once(tmp_path, server.api, NOW)

    def failure(minute: int) -> dict[str, Any]:
        return {
            "name": "brave-bee",
            "deployment_id": "d1",
            "end_time": (NOW + timedelta(minutes=minute)).isoformat(),
            "state": {"name": "Failed", "message": "merge: 1 file cannot be used"},
        }

    for minute in (1, 6, 11):
        server.failed, server.heartbeat = [failure(minute)], NOW + timedelta(minutes=minute)
        watch_once(tmp_path, server.api, NOW + timedelta(minutes=minute + 1))
    assert notices(tmp_path) == ["error   retrain failed | merge: 1 file cannot be used"]
    assert server.asked[-1]["flow_runs"]["end_time"] == {"after_": "2026-11-02T03:36:00+00:00"}


def test_a_server_that_is_killed_in_mid_answer_is_reported(server: FakeServer, tmp_path: Path) -> None:
    server.is_killed = True
    (trouble,) = watch_once(tmp_path, server.api, NOW)
    assert trouble.startswith(f"the Prefect server at {server.api} refuses to answer: its answer is broken: ")
    with pytest.raises(OSError, match="IncompleteRead"):
        call(server.api, "/deployments/filter", {})


def test_a_look_that_fails_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter([ZeroDivisionError("a surprise"), KeyboardInterrupt()])

    def fails(*_arguments: object) -> None:
        raise next(looks)

    monkeypatch.setattr("pipeline.watchdog.watch_once", fails)
    with pytest.raises(KeyboardInterrupt):
        watch(tmp_path, "http://127.0.0.1:9/api", 0)
    assert "ZeroDivisionError: a surprise" in capsys.readouterr().err


@pytest.mark.parametrize(("troubles", "code"), [(["no worker"], 3), ([], 0)])
def test_the_exit_code_tells_trouble_from_a_look_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, troubles: list[str], code: int
) -> None:
    monkeypatch.setattr("pipeline.watchdog.watch_once", lambda *_: troubles)
    with pytest.raises(SystemExit) as stop:
        main(["watchdog", "--once", "--root", str(tmp_path)])
    assert stop.value.code == code
    unit = (ROOT / "deploy/systemd/metaldefect-watchdog.service").read_text()
    assert "\nSuccessExitStatus=3\n" in unit


def test_a_server_that_is_busy_does_not_end_the_watchdog(server: FakeServer, tmp_path: Path) -> None:
    """Prefect answers 503 while its database is locked."""
    server.is_busy = True
    assert watch_once(tmp_path, server.api, NOW) == []
    server.is_busy = False
    later = NOW + timedelta(minutes=1)
    ended = (NOW + timedelta(seconds=30)).isoformat()
    state = {"name": "Failed", "message": "merge: 1 file cannot be used"}
    server.failed = [{"name": "brave-bee", "deployment_id": "d1", "end_time": ended, "state": state}]
    watch_once(tmp_path, server.api, later)
    assert notices(tmp_path) == ["error   retrain failed | merge: 1 file cannot be used"]


def test_commands_in_another_shell_ask_the_server_of_this_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert api_url(tmp_path) == "http://127.0.0.1:4200/api"
    note_api_url(tmp_path, "http://127.0.0.1:4201/api")
    assert api_url(tmp_path) == "http://127.0.0.1:4201/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://server/api")
    assert api_url(tmp_path) == "http://server/api"


def test_a_full_disk_neither_hides_trouble_nor_repeats_it_at_every_look(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    server.heartbeat = NOW - timedelta(minutes=5)
    monkeypatch.setattr(module, "write_json", full)
    for minute in range(3):
        assert len(watch_once(tmp_path, server.api, NOW + timedelta(minutes=minute))) == 1
    assert len(notices(tmp_path)) == 1
