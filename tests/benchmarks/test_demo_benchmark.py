"""What `python -m benchmarks.demo` demands of the demo."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import demo
from benchmarks.demo import failures, load_test
from benchmarks.results import read

KEPT = {"requests": 200, "lost": 0, "memory_mb": 1604.0, "memory_growth_mb": 63.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"memory_growth_mb": -200.0}, []),
        ({"lost": 1}, ["1 of 200 requests lost"]),
        ({"memory_growth_mb": 65.0}, ["memory grew by 65 MiB, at most 64 MiB are allowed"]),
        (
            {"lost": 2, "memory_growth_mb": 300.0},
            ["2 of 200 requests lost", "memory grew by 300 MiB, at most"],
        ),
    ],
)
def test_what_the_demo_did_not_keep_is_said(change: dict[str, float], words: list[str]) -> None:
    found = failures(KEPT | change)
    assert len(found) == len(words)
    assert all(said.startswith(expected) for said, expected in zip(found, words, strict=True))


@pytest.mark.parametrize("lost", [0, 3])
def test_the_command_publishes_and_fails_when_requests_were_lost(
    lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "measure", lambda *_: (KEPT | {"lost": lost}, {"errors": []}))
    results = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["demo", "--results", str(results)])
    if lost:
        with pytest.raises(SystemExit, match=r"^benchmarks\.demo: 3 of 200 requests lost$"):
            demo.main()
    else:
        demo.main()
    assert read(results).figures["lost"] == lost


def test_a_refused_request_counts_as_lost() -> None:
    def send(number: int) -> str:
        time.sleep(0.2)  # long enough for samples of the memory
        if number == 4:
            raise ConnectionError("gone")
        return "answer"

    figures, details = load_test(lambda: send, os.getpid(), 8, 2)
    assert (figures["requests"], figures["lost"]) == (8, 1)
    assert details["errors"] == ["ConnectionError: gone"]
    assert failures(figures | {"memory_growth_mb": 0.0}) == ["1 of 8 requests lost"]
