"""Processes that outlived the one they worked for: flow runs of a killed worker, stages of a killed flow.

Every child is told in its environment which process it works for. Once that one is gone, nobody waits for the
child any more: it would work on beside the next run.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from pipeline.dead_runs import is_gone, process_tag

WORKER = "METALDEFECT_WORKER_PROCESS"
FLOW = "METALDEFECT_FLOW_PROCESS"
GRACE_SECONDS = 10.0


def works_for_this(variable: str) -> dict[str, str]:
    """The variable that tells children that they work for this process; `variable` is `WORKER` or `FLOW`."""
    return {variable: process_tag()}


def processes_in(folder: Path) -> Iterator[psutil.Process]:
    """Processes whose working directory lies in a folder; not this one."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and Path(process.cwd()).is_relative_to(folder):
                yield process


def find_orphans(root: Path, *variables: str) -> Iterator[psutil.Process]:
    """Processes in a project's folder whose worker (`WORKER`) or flow (`FLOW`) is gone."""
    for process in processes_in(root):
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            owners = [environment[name] for name in variables if name in environment]
            if any(map(is_gone, owners)):
                yield process


def stop_orphans(root: Path, *variables: str) -> int:
    """End the processes of `find_orphans`; returns how many there were."""
    return stop_all(find_orphans(root, *variables))


def stop_all(processes: Iterable[psutil.Process]) -> int:
    """SIGTERM, and SIGKILL for what is left after ten seconds; returns how many there were."""
    found = list(processes)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(found, GRACE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, GRACE_SECONDS)
    return len(found)
