"""While Prefect's server is away, flows see what ends, make no long pauses, and wait before they report."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.futures import PrefectConcurrentFuture
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import repro, server
from flows.graph import Node
from flows.limits import TimeLimit
from flows.repro import running_stages, wait
from flows.server import answers, wait_for_server
from flows.summary import StageResult


@pytest.fixture
def _dead_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing listens at Prefect's address, and a client that pauses before another try fails the test."""

    def sleep(seconds: float) -> None:
        raise AssertionError(f"Prefect's client sleeps for {seconds} s")

    monkeypatch.setattr("prefect.client.base.time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(repro, "POLL_SECONDS", 0.05)
    ids = SimpleNamespace(id=str(uuid4()), root_flow_run_id=str(uuid4()))
    monkeypatch.setattr(repro, "runtime", SimpleNamespace(flow_run=ids))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


@pytest.mark.usefixtures("_dead_server")
def test_a_stage_that_ends_while_the_server_is_away_is_seen() -> None:
    stage: Future[Any] = Future()
    timer = threading.Timer(0.2, stage.set_result, [None])
    timer.start()
    limit = TimeLimit.start("pipeline", 1)
    assert wait([PrefectConcurrentFuture(uuid4(), stage)], limit) == "ended"
    timer.join()


@pytest.mark.usefixtures("_dead_server")
def test_the_time_limit_holds_while_the_server_is_away() -> None:
    limit = TimeLimit.start("pipeline", 0)
    assert wait([PrefectConcurrentFuture(uuid4(), Future())], limit) == "late"


@pytest.mark.usefixtures("_dead_server")
def test_a_dead_server_does_not_answer() -> None:
    assert not answers()


def test_a_report_waits_for_the_server_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    replies = iter([False, False, True])
    monkeypatch.setattr(server, "answers", lambda: next(replies))
    monkeypatch.setattr(server, "POLL_SECONDS", 0)
    monkeypatch.setattr(server, "get_run_logger", lambda: SimpleNamespace(warning=said.append))
    wait_for_server(TimeLimit.start("retrain", 1))
    assert list(replies) == []
    assert said == ["Prefect's server does not answer: waiting for it"]


def test_a_stage_runs_once_all_before_it_are_done() -> None:
    nodes = [
        Node("first", (), True),
        Node("broken", ("first",), True),
        Node("slow", ("first",), True),
        Node("last", ("broken", "slow"), True),
        Node("after broken", ("broken",), True),
    ]
    ended = {"first": StageResult("first", "Completed"), "broken": StageResult("broken", "Failed")}
    assert running_stages(nodes, {}) == ["first"]
    assert running_stages(nodes, ended) == ["slow"]
