"""`python -m benchmarks.kills`: SIGKILL worker, server, stage and MLflow in the middle of a retraining.

A toy project is deployed as `make deploy` does it, with an MLflow server and a service that follows the
champion. Kills are spread over the whole length of a run. Every second one hits the main process alone, as
`kill -9` does, and leaves its children; the others hit all of them, as a power cut does. What was killed is
started again, and then the run itself or the next one has to complete, with nothing left behind. If one did
not, or a request to the service was not answered, the command exits with 1 after it published the result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish
from benchmarks.toy_plant import (
    Client,
    Plant,
    asking,
    faults,
    free_port,
    kill,
    plant_environment,
    start_mlflow,
    start_service,
    wait_for,
)
from benchmarks.toy_project import commit_change, write_detectors, write_project
from metaldefect.deploy.bundle import bundle_version
from metaldefect.errors import UserError
from pipeline.champion import promote
from pipeline.deployment import Background

KINDS = ("worker", "server", "stage", "mlflow")
STAGE_SECONDS = 4.0


def strike(plant: Plant, kind: str, whole: bool, pause: float) -> None:
    """Kill one part of a plant, some seconds from now, or from the start of the stage that is to be killed.

    Args:
        plant: the plant.
        kind: what is killed.
        whole: with all its children; of a stage: the stage itself, and not the DVC that waits for it.
        pause: seconds.
    """
    stage = wait_for(plant.stage, "a stage runs") if kind == "stage" else None
    time.sleep(pause)
    if stage is not None:
        kill(stage if whole else dvc_above(stage), whole=False)
    elif kind == "mlflow":
        kill(plant.helpers["mlflow"], whole=True)
    else:
        kill(Background(plant.root, kind).process(), whole)


def dvc_above(stage: psutil.Process) -> psutil.Process:
    """The DVC that waits for a stage.

    Raises:
        UserError: the stage has ended.
    """
    with suppress(psutil.NoSuchProcess):
        for each in stage.parents():
            if any("dvc" in word for word in each.cmdline()[:3]):
                return each
    raise UserError("the stage ended before it was killed")


def mend(plant: Plant, kind: str) -> None:
    """Start again what was killed, as an operator or systemd does."""
    if kind in ("worker", "server"):
        plant.deploy()
    elif kind == "mlflow":
        start_mlflow(plant)


def start_afresh(plant: Plant) -> None:
    """End what the last round left running and start everything again."""
    plant.command("undeploy")
    plant.deploy()
    mlflow = plant.helpers.get("mlflow")
    if mlflow is not None:
        kill(mlflow, whole=True)
        start_mlflow(plant)


def play_round(plant: Plant, kind: str, number: int, share: float, duration: float) -> dict[str, Any]:
    """Kill one part in the middle of a retraining that should promote; see what becomes of it.

    Args:
        plant: the plant.
        kind: what is killed.
        number: of the round, which no earlier one had.
        share: of the run's length after which the kill comes.
        duration: seconds that a run takes undisturbed.

    Returns:
        The record of the round. A run that does not start or end in time is a fault in it, because it must
        not cost the other rounds.
    """
    promote(plant.root, plant.detectors / "half_blind", {"reason": "so that there is something to promote"})
    commit_change(plant.root, "good", number)
    whole = number % 2 == 0
    # A stage that is nearly done might end before it is killed
    pause = share * (0.8 * STAGE_SECONDS if kind == "stage" else duration)
    runs: list[str] = []
    ends: list[dict[str, Any]] = []
    try:
        runs.append(plant.start_run())
        wait_for(lambda: plant.state(runs[0])["type"] == "RUNNING", f"run {runs[0]} starts")
        strike(plant, kind, whole, pause)
        mend(plant, kind)
        ends.append(plant.end_of(runs[0]))
        if ends[0]["type"] != "COMPLETED":
            runs.append(plant.start_run())
            ends.append(plant.end_of(runs[1]))
        found = faults(plant, runs, bundle_version(plant.detectors / "good"))
    except UserError as error:
        found = [f"lost run: {error}"]
        start_afresh(plant)
    return {
        "kind": kind,
        "whole": whole,
        "share": share,
        "states": [state["name"] for state in ends],
        "completed": bool(ends) and ends[-1]["type"] == "COMPLETED",
        "messages": [state["message"] for state in ends],
        "faults": found,
    }


@contextmanager
def running_plant(folder: Path) -> Iterator[Plant]:
    """A plant with everything: server, worker, watchdog, MLflow."""
    environment = plant_environment(folder, mlflow=True)
    detectors = write_detectors(folder / "detectors")
    root = write_project(folder / "project", detectors, environment, STAGE_SECONDS)
    plant = Plant(root, detectors, environment, free_port())
    (root / ".prefect").mkdir()
    (root / "mlruns").mkdir()
    try:
        start_mlflow(plant)
        plant.deploy()
        yield plant
    finally:
        plant.stop()


def summarise(rounds: Sequence[Mapping[str, Any]], client: Client) -> dict[str, int]:
    """The figures: per kind how many kills and what became of them, then what was left behind."""
    figures = {}
    for kind in dict.fromkeys(each["kind"] for each in rounds):
        found = [each for each in rounds if each["kind"] == kind]
        figures[f"{kind}_killed"] = len(found)
        figures[f"{kind}_killed_and_the_run_went_on"] = sum(
            len(each["states"]) == 1 and each["completed"] for each in found
        )
        figures[f"{kind}_killed_and_this_or_the_next_run_completed"] = sum(
            each["completed"] for each in found
        )
    left = Counter(line.partition(":")[0] for each in rounds for line in each["faults"])
    figures["orphan_processes"] = left["orphan"]
    figures["half_promoted_models"] = left["half-promoted"]
    figures["lost_runs"] = left["lost run"]
    figures["requests_to_the_service"] = client.answers.total()
    figures["requests_without_an_answer"] = client.answers.total() - client.answers[200]
    return figures


def complaints(rounds: Sequence[Mapping[str, Any]], client: Client) -> list[str]:
    """One line for each round that left something behind or never completed, and for unanswered requests."""
    found = []
    for number, each in enumerate(rounds):
        faults_of_round = [*each["faults"], *([] if each["completed"] else ["no run completed"])]
        found += [f"round {number}, {each['kind']} killed: {fault}" for fault in faults_of_round]
    if unanswered := client.answers.total() - client.answers[200]:
        found.append(f"{unanswered} requests to the service were not answered")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what to kill")
    parser.add_argument("--count", type=int, default=10, help="kills of each kind (default: %(default)s)")
    add_results_argument(parser, "kills")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_plant(Path(folder).resolve()) as plant:
        commit_change(plant.root, "half_blind", -1)
        first = plant.end_of(plant.start_run())
        if first["name"] != "Promoted":
            raise UserError(f"the first run: {first['name']}, {first['message']}")
        started = time.monotonic()
        commit_change(plant.root, "good", -2)
        plant.end_of(plant.start_run())
        duration = time.monotonic() - started
        address = start_service(plant)
        shares = [(k + 0.5) / arguments.count for k in range(arguments.count)]
        jobs = [(kind, share) for kind in arguments.kinds for share in shares]
        rounds = []
        with asking(address) as client:
            for number, (kind, share) in enumerate(tqdm(jobs, desc="kills", unit="kill")):
                rounds.append(play_round(plant, kind, number, share, duration))
                tqdm.write(f"{kind} {share:.2f} {rounds[-1]['states']} {rounds[-1]['faults']}")
    details = {
        "seconds_of_a_run": round(duration, 1),
        "models_that_answered": len(client.versions),
        "rounds": rounds,
    }
    publish(arguments.results, "kills", summarise(rounds, client), details)
    if wrong := complaints(rounds, client):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
