"""What the kill benchmark counts; tests/flows/test_deployment.py kills for real."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.kills import summarise
from benchmarks.toy_plant import Client


def played(kind: str, states: list[str], faults: list[str]) -> dict[str, Any]:
    completed = states[-1] in ("Promoted", "Unchanged")
    return {"kind": kind, "states": states, "completed": completed, "faults": faults}


def test_what_is_left_behind_and_what_never_completed_is_counted() -> None:
    rounds = [
        played("worker", ["Crashed", "Promoted"], []),
        played("worker", ["Promoted"], ["orphan: 1 sleep", "orphan: 2 sleep"]),
        played("stage", ["Failed", "Failed"], ["half-promoted: half_blind serves", "lost run: Running"]),
    ]
    client = Client("http://127.0.0.1:1", Counter({200: 97, 503: 2, 0: 1}))
    assert summarise(rounds, client) == {
        "worker_killed": 2,
        "worker_killed_and_the_run_went_on": 1,
        "worker_killed_and_this_or_the_next_run_completed": 2,
        "stage_killed": 1,
        "stage_killed_and_the_run_went_on": 0,
        "stage_killed_and_this_or_the_next_run_completed": 0,
        "orphan_processes": 2,
        "half_promoted_models": 1,
        "lost_runs": 1,
        "requests_to_the_service": 100,
        "requests_without_an_answer": 3,
    }
