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

from pipeline.watchdog import find_trouble, watch_once

NOW = datetime(2026, 11, 2, 3, 30, tzinfo=UTC)
DEPLOYMENT = {"id": "d1", "name": "retrain", "paused": False, "schedules": [{"active": True}]}


class FakeServer(ThreadingHTTPServer):
    """Answers Prefect's routes from what a test has put there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heartbeat: datetime | None = NOW - timedelta(seconds=20)
        self.late: list[dict[str, Any]] = []
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
            return self.late
        return self.failed if "end_time" in condition else self.planned


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.reply({})

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, body: dict[str, Any]) -> None:
        text = json.dumps(self.server.answer(self.path, body)).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
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
    trouble = "no worker runs: nothing that is due will start; type `make deploy`"
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


def test_a_dead_server_is_reported(server: FakeServer, tmp_path: Path) -> None:
    assert watch_once(tmp_path, "http://127.0.0.1:9/api", NOW) == [
        "the Prefect server at http://127.0.0.1:9/api does not answer: type `make deploy`"
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
