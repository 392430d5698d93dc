"""`python -m flows.run` on a toy project, as a user runs it."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = pytest.mark.usefixtures("with_database")

COMMAND = [sys.executable, "-m", "flows.run"]
TORCHLESS = """\
import sys
from flows.run import main

code = main()
print("TORCH", "torch" in sys.modules)
sys.exit(code)
"""
UNWALKED = """\
from pathlib import Path
from prefect import flow
from flows.graph import Node
from flows.processes import ChildProcesses
from flows.repro import submit

class Results(dict):
    def __iter__(self):
        raise RuntimeError("dictionary changed size during iteration")
    keys = values = items = __iter__

@flow
def two_stages():
    results = Results()
    nodes = [Node("early", (), False), Node("late", ("early",), False)]
    futures = submit(nodes, set(), Path(), ChildProcesses(), None, results)
    print("STATES", *(future.wait() or future.state.name for future in futures.values()), len(results))

two_stages()
"""


def run(
    root: Path, environment: dict[str, str], *arguments: str, command: Sequence[str] = COMMAND
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "--root", str(root), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )


def states(output: str) -> dict[str, str]:
    """The table that the flow prints: stage -> state."""
    rows = re.findall(r"^(\w+) +(\w+) +\d+\.\d", output, flags=re.M)
    return dict(rows)


def mlflow_runs(root: Path) -> list[tuple[str, str, str]]:
    """(what ran, status, lifecycle stage), oldest first; a run's name also says when."""
    with sqlite3.connect(root / "mlruns" / "mlflow.db") as store:
        found = store.execute("select name, status, lifecycle_stage from runs order by start_time").fetchall()
    assert all(re.fullmatch(r"\w+ \d{4}-\d\d-\d\d \d\d:\d\d", name) for name, _, _ in found)
    return [(name.split()[0], status, life) for name, status, life in found]


def made_in(root: Path) -> dict[str, bytes]:
    """The content of every out by its path."""
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    outs = [out["path"] for stage in stages.values() for out in stage["outs"]]
    assert sorted(outs) == ["first.txt", "last.txt", "metrics/quick.json", "quick.txt", "slow.txt"]
    return {path: (root / path).read_bytes() for path in outs}


def test_results_that_grow_while_tasks_start_disturb_nobody(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNWALKED], env=environment, text=True, capture_output=True, timeout=180
    )
    assert "STATES Unchanged Unchanged 2" in done.stdout, done.stdout + done.stderr


def test_a_pipeline_is_made_restored_and_left_alone(
    make_toy: Callable[[str], Path], environment: dict[str, str]
) -> None:
    by_flow, by_dvc = make_toy("by_flow"), make_toy("by_dvc")
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-q"], cwd=by_dvc, env=environment, check=True, timeout=60
    )

    first = run(by_flow, environment, command=[sys.executable, "-c", TORCHLESS])

    assert first.returncode == 0, first.stdout
    assert "TORCH False" in first.stdout.splitlines()
    assert states(first.stdout) == dict.fromkeys(("first", "slow", "quick", "last"), "Completed")
    assert "Task run 'quick' - making quick.txt" in first.stdout
    assert "without parent" not in first.stdout
    assert (by_flow / "last.txt").read_text() == "first: {value: 1}\n" * 2
    # quick ends before slow, but dvc repro runs slow first: the lock file must not show the difference
    assert (by_flow / "dvc.lock").read_bytes() == (by_dvc / "dvc.lock").read_bytes()
    assert made_in(by_flow) == made_in(by_dvc)
    assert mlflow_runs(by_flow) == [("pipeline", "FINISHED", "active")]

    second = run(by_flow, environment)
    assert second.returncode == 0, second.stdout
    assert states(second.stdout) == dict.fromkeys(("first", "slow", "quick", "last"), "Unchanged")
    assert "Running stage" not in second.stdout
    assert len(mlflow_runs(by_flow)) == 1

    (by_flow / "last.txt").unlink()
    (by_flow / "dvc.lock").unlink()
    third = run(by_flow, environment)
    assert states(third.stdout)["last"] == "Restored"
    assert (by_flow / "last.txt").is_file()
    # nothing ran, so its parent run is removed again
    assert [life for _, _, life in mlflow_runs(by_flow)] == ["active", "deleted"]


def test_force_runs_a_stage_that_did_not_change(toy: Path, environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=toy, env=environment, check=True)

    done = run(toy, environment, "--force", "quick")

    assert done.returncode == 0, done.stdout
    # its out is the same as before, so what comes after it is asked of DVC and left alone
    assert states(done.stdout) == {
        "first": "Unchanged",
        "slow": "Unchanged",
        "quick": "Completed",
        "last": "Unchanged",
    }

    unknown = run(toy, environment, "--force", "slwo")
    assert unknown.returncode == 1
    assert "no such stage: slwo; known: first, slow, quick, last" in unknown.stdout


def test_a_failed_stage_fails_the_flow_and_stops_what_depends_on_it(
    toy: Path, environment: dict[str, str]
) -> None:
    definition = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(definition.replace("quick.txt first.txt", "quick.txt missing.txt"))

    done = run(toy, environment)

    assert done.returncode == 1
    assert states(done.stdout) == {
        "first": "Completed",
        "slow": "Completed",
        "quick": "Failed",
        "last": "Skipped",
    }
    # the state's message says why, not DVC's last line
    missing = "FileNotFoundError: [Errno 2] No such file or directory: 'missing.txt'"
    assert f"quick failed: {missing}" in done.stdout
    assert done.stdout.count("not run: last") >= 1
    assert not (toy / "last.txt").exists()
    assert mlflow_runs(toy) == [("pipeline", "FAILED", "active")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ending_the_flow_ends_the_running_stage(
    toy: Path, environment: dict[str, str], number: signal.Signals, alive: Callable[[int], bool]
) -> None:
    definition = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(definition.replace("sleep 1 &&", "echo $$ > pid; sleep 120 &&"))
    log = toy / "log"
    with log.open("w") as stream:
        flow = subprocess.Popen(
            [*COMMAND, "--root", str(toy)],
            env=environment,
            stdout=stream,
            stderr=stream,
            text=True,
            # A shell that runs the tests in its background ignores it, and so would they
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    pid_file = toy / "pid"
    deadline = time.monotonic() + 120
    while not (pid_file.is_file() and pid_file.read_text().strip()):
        assert flow.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    pid = int(pid_file.read_text())
    started = psutil.Process(flow.pid).children(recursive=True)
    assert pid in {process.pid for process in started}
    assert any("uvicorn" in process.cmdline() for process in started)

    flow.send_signal(number)

    assert flow.wait(timeout=60) != 0
    assert not any(alive(process.pid) for process in started)
    assert mlflow_runs(toy) == [("pipeline", "KILLED", "active")]
    (toy / "dvc.yaml").write_text(definition)
    repaired = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=toy, env=environment, capture_output=True, text=True
    )
    assert repaired.returncode == 0, repaired.stderr


def test_a_folder_without_a_pipeline_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run(tmp_path, environment)
    assert done.returncode == 1
    assert done.stdout == f"{tmp_path / 'dvc.yaml'} does not exist: give the project's folder with --root\n"


def test_a_run_by_hand_and_a_flow_wait_for_each_other(toy: Path, environment: dict[str, str]) -> None:
    definition = (toy / "dvc.yaml").read_text()
    (toy / "dvc.yaml").write_text(definition.replace("sleep 1 &&", "echo $$ > pid; sleep 6 &&"))
    by_hand = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-q"],
        cwd=toy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (toy / "pid").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.1)

    done = run(toy, environment)

    output, _ = by_hand.communicate(timeout=120)
    assert by_hand.returncode == 0, output
    assert done.returncode == 0, done.stdout
    assert "is busy" not in output
    assert (toy / "last.txt").read_text() == "first: {value: 1}\n" * 2
