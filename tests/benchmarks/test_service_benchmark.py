"""The service under load, as `python -m benchmarks.service` measures it, in small."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks import service
from benchmarks.load import Outcome, memory_figures, send_all
from benchmarks.results import read
from benchmarks.service import failures, load_test, summarise
from metaldefect.deploy.bundle import TOLERANCES


def test_no_request_is_lost_while_the_model_is_swapped_twice(
    planted: dict[str, Path], tmp_path: Path
) -> None:
    figures, details = load_test(planted["good"], tmp_path, 200, 8, 2, "fp32")
    assert details["errors"] == []
    assert {name: figures[name] for name in ("requests", "lost", "wrong", "swaps", "versions")} == {
        "requests": 200, "lost": 0, "wrong": 0, "swaps": 2, "versions": 2,
    }  # fmt: skip
    assert figures["logged"] == 200, "SIGTERM writes the log"
    assert len(details["memory_mb"]) > 2
    grown = memory_figures(details["memory_mb"])["memory_growth_mb"]
    assert figures["memory_growth_mb"] == pytest.approx(grown, abs=0.2), "samples are rounded"


def test_lost_and_wrong_answers_are_counted() -> None:
    def answer(score: float, id: str) -> dict[str, object]:
        return {"score": score, "id": id, "model_version": "v1"}

    outcomes = [
        Outcome(0, 0.010, answer(0.5, "part-0")),
        Outcome(1, 0.020, answer(0.5, "part-1")),  # image 1 scores 0.7
        Outcome(2, 0.030, answer(0.5, "part-1")),  # another part's answer
        Outcome(3, 0.040, None, "ConnectionError: gone"),
    ]
    figures = summarise(outcomes, [0.5, 0.7], TOLERANCES["fp32"])
    assert (figures["requests"], figures["lost"], figures["wrong"]) == (4, 1, 2)
    assert figures["p50_ms"] == pytest.approx(20)
    assert summarise(outcomes[3:], [0.5, 0.7], TOLERANCES["fp32"]) == {"requests": 1, "lost": 1, "wrong": 0}


KEPT = {
    "requests": 100, "lost": 0, "wrong": 0, "logged": 100, "memory_mb": 400.0, "memory_growth_mb": 39.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"memory_growth_mb": -80.0}, []),
        ({"lost": 1, "logged": 99}, ["1 of 100 requests lost"]),
        ({"wrong": 2}, ["2 of 100 answers wrong"]),
        ({"logged": 99}, ["99 of 100 answers logged"]),
        ({"memory_growth_mb": 41.0}, ["memory grew by 41 MB to 400 MB, at most 40 MB are allowed"]),
    ],
)
def test_what_the_service_did_not_keep_is_said(change: dict[str, float], words: list[str]) -> None:
    assert failures(KEPT | change) == words


@pytest.mark.parametrize("growth", [0.0, 300.0])
def test_the_command_fails_when_memory_grew(
    growth: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = KEPT | {"memory_growth_mb": growth}
    monkeypatch.setattr(service, "load_test", lambda *_: (figures, {"errors": []}))
    results = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["service", "--bundle", str(tmp_path), "--results", str(results)])
    if growth:
        with pytest.raises(SystemExit, match=r"^benchmarks\.service: memory grew by 300 MB"):
            service.main()
    else:
        service.main()
    assert read(results).figures["memory_growth_mb"] == growth


def test_every_request_is_sent_once_and_a_failing_one_is_an_outcome() -> None:
    done = []

    def send(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        if number == 5:
            raise ConnectionError("gone")
        return number * number

    outcomes = send_all(20, 4, lambda: send, done.append)
    assert [outcome.number for outcome in outcomes] == list(range(20))
    assert [outcome.answer for outcome in outcomes] == [k * k if k != 5 else None for k in range(20)]
    assert outcomes[5].error == "ConnectionError: gone"
    assert sorted(done) == list(range(1, 21))


def test_memory_counts_from_the_second_quarter_on() -> None:
    assert memory_figures([10, 20, 100, 100, 102, 102, 103, 105]) == {
        "memory_mb": 104,
        "memory_growth_mb": 4,
    }
