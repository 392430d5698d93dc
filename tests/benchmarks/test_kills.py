"""What the kill benchmark counts; tests/flows/test_deployment.py kills for real."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import kills
from benchmarks.kills import dvc_above, main, play_round, summarise
from benchmarks.toy_plant import Client, Plant, wait_for
from metaldefect.errors import UserError
from pipeline.deployment import Background

# A worker of ours, Prefect's below it, and a flow run below that
WORKER = """\
import subprocess, sys
below = "import subprocess; subprocess.run(['sleep', '300'])"
subprocess.run([sys.executable, "-c", below])
"""


def played(kind: str, states: list[str], faults: list[str]) -> dict[str, Any]:
    completed = states[-1] in ("Promoted", "Unchanged")
    return {"kind": kind, "states": states, "completed": completed, "faults": faults}


def test_what_is_left_behind_and_what_never_completed_is_counted() -> None:
    rounds = [
        played("worker", ["Crashed", "Promoted"], []),
        played("worker", ["Promoted"], ["orphan: 1 sleep", "orphan: 2 sleep"]),
        played("stage", ["Failed", "Failed"], ["half-promoted: half_blind serves", "lost run: Running"]),
    ]
    rounds.append(played("stage", ["Failed"], ["lost run: not within 300 s: run r2 ends"]))
    client = Client("http://127.0.0.1:1", Counter({200: 97, 503: 2, 0: 1}))
    assert summarise(rounds, client) == {
        "worker_killed": 2,
        "worker_killed_and_the_run_went_on": 1,
        "worker_killed_and_this_or_the_next_run_completed": 2,
        "stage_killed": 2,
        "stage_killed_and_the_run_went_on": 0,
        "stage_killed_and_this_or_the_next_run_completed": 0,
        "orphan_processes": 2,
        "half_promoted_models": 1,
        "lost_runs": 2,
        "requests_to_the_service": 100,
        "requests_without_an_answer": 3,
    }


@pytest.mark.parametrize(
    ("record", "status", "complaint"),
    [
        (played("worker", ["Promoted"], []), 200, None),
        (played("worker", ["Promoted"], ["orphan: 1 sleep"]), 200, "round 0, worker killed: orphan: 1 sleep"),
        (played("worker", ["Failed"], []), 200, "round 0, worker killed: no run completed"),
        (played("worker", ["Promoted"], []), 503, "1 requests to the service were not answered"),
    ],
    ids=["well", "orphan", "failed", "unanswered"],
)
def test_a_fault_is_published_and_fails_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record: dict[str, Any],
    status: int,
    complaint: str | None,
) -> None:
    class CalmPlant(Plant):
        def start_run(self, *_arguments: object, **_parameters: object) -> str:
            return "r1"

        def end_of(self, run: str) -> dict[str, Any]:
            return {"name": "Promoted"}

    @contextmanager
    def running_plant(folder: Path) -> Iterator[Plant]:
        yield CalmPlant(folder, folder, {}, 1)

    @contextmanager
    def asking(address: str) -> Iterator[Client]:
        yield Client(address, Counter({status: 1}))

    published: list[dict[str, int]] = []
    fakes: dict[str, Any] = {
        "running_plant": running_plant,
        "asking": asking,
        "commit_change": lambda *_arguments: None,
        "start_service": lambda _plant: "http://127.0.0.1:1",
        "play_round": lambda *_arguments: record | {"share": 0.5},
        "publish": lambda _path, _name, figures, _details: published.append(figures),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(kills, name, fake)
    monkeypatch.setattr("sys.argv", ["kills", "--kinds", "worker", "--count", "1"])
    if complaint is None:
        main()
    else:
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == complaint  # Python prints it and exits with 1
    assert published[0]["worker_killed"] == 1


def test_a_run_that_never_ends_costs_its_own_round_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StuckPlant(Plant):
        def start_run(self, *_arguments: object, **_parameters: object) -> str:
            return "r1"

        def state(self, _run: str) -> dict[str, Any]:
            return {"type": "RUNNING"}

        def end_of(self, run: str) -> dict[str, Any]:
            raise UserError(f"not within 300 s: run {run} ends")

    started_afresh: list[Plant] = []
    for name in ("promote", "commit_change", "strike", "mend"):
        monkeypatch.setattr(kills, name, lambda *_arguments: None)
    monkeypatch.setattr(kills, "start_afresh", started_afresh.append)
    plant = StuckPlant(tmp_path, tmp_path, {}, 1)
    record = play_round(plant, "server", 2, share=0.5, duration=10)
    assert (record["completed"], record["states"]) == (False, [])
    assert record["faults"] == ["lost run: not within 300 s: run r1 ends"]
    assert started_afresh == [plant]


def test_a_stage_that_has_ended_cannot_be_killed() -> None:
    child = subprocess.Popen(["sleep", "300"])
    stage = psutil.Process(child.pid)
    child.kill()
    child.wait()
    with pytest.raises(UserError, match="the stage ended before it was killed"):
        dvc_above(stage)


def test_what_is_below_prefects_worker_is_left_over(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(WORKER)
    plant = Plant(tmp_path, tmp_path, {}, 1)
    worker = Background(tmp_path, "worker")
    worker.start(["parent"])
    try:
        wait_for(
            lambda: [each for each in plant.strangers() if "sleep 300" in each], "the flow run starts", 60
        )
        (stranger,) = plant.strangers()
    finally:
        worker.stop()
    assert stranger.endswith("sleep 300"), "the two workers above it belong here"
