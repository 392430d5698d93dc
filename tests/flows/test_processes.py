"""Child processes: output, exit codes, and that a whole group ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.processes import ChildProcesses, StoppedError


def test_lines_of_both_streams_and_the_exit_code_come_back(tmp_path: Path) -> None:
    lines: list[str] = []
    script = "import sys; print('one'); print(); print('two', file=sys.stderr); sys.exit(3)"
    code = ChildProcesses().run([sys.executable, "-u", "-c", script], tmp_path, os.environ, lines.append)
    assert code == 3
    assert sorted(lines) == ["one", "two"]


def test_a_stubborn_grandchild_is_killed(tmp_path: Path, alive: Callable[[int], bool]) -> None:
    children = ChildProcesses()
    told = threading.Event()
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        told.set()

    command = ["sh", "-c", "trap '' TERM; sleep 300 & echo $!; wait; wait; wait"]
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(children.run(command, tmp_path, os.environ, on_line))
    )
    thread.start()
    assert told.wait(30)
    grandchild = int(lines[0])
    assert alive(grandchild)

    children.stop(grace=0.2)

    thread.join(30)
    assert codes == [-9]
    # The pipe closes a moment before the kernel has done with the process that held it.
    deadline = time.monotonic() + 30
    while alive(grandchild) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(grandchild)


def test_a_stage_does_not_outlive_its_killed_dvc(tmp_path: Path, alive: Callable[[int], bool]) -> None:
    """Else a second try would run beside it, and nobody would record what it makes."""
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        os.kill(int(line.split()[0]), signal.SIGKILL)

    command = ["sh", "-c", "sleep 300 & echo $$ $!; wait"]
    assert ChildProcesses().run(command, tmp_path, os.environ, on_line) == -9
    stage = int(lines[0].split()[1])
    deadline = time.monotonic() + 30
    while alive(stage) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(stage)


def test_nothing_starts_after_a_stop(tmp_path: Path) -> None:
    children = ChildProcesses()
    children.stop()
    with pytest.raises(StoppedError, match="not started, the flow is being cancelled: true"):
        children.run(["true"], tmp_path, os.environ, print)
