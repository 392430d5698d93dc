"""Prefect's worker for this project, which ends its flow runs before it ends itself.

Prefect's own worker stops at SIGTERM without waiting for its flow runs: a stage goes on without anybody, and
the run says Running for good. This process passes the signal to the flow runs first, which end their stages
and report their state, and stops the worker when they are gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from pipeline.dead_flow_runs import close_dead_flow_runs
from pipeline.orphans import FLOW, WORKER, stop_orphans, works_for_this
from pipeline.watchdog import POOL, answers

# A flow run ends its stage within ten seconds, and then reports to the server
FLOW_GRACE_SECONDS = 60.0
WORKER_GRACE_SECONDS = 20.0
POLL_SECONDS = 0.5
SERVER_SECONDS = 120.0


def clean_up(root: Path, api: str) -> list[str]:
    """End what a killed worker left, and tell Prefect which of its runs are gone.

    Waits up to two minutes for a server that is starting.

    Returns:
        One line per thing that was cleaned up.
    """
    stopped = stop_orphans(root, WORKER, FLOW)
    done = [f"ended {stopped} processes of a killed worker"] if stopped else []
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # such as 503, while its database is locked
            if answers(api):
                return done + close_dead_flow_runs(root, api)
        time.sleep(POLL_SECONDS)
    return [*done, f"the Prefect server at {api} does not answer"]


def run_worker(root: Path, command: list[str] | None = None) -> int:
    """Run a worker until it ends or this process gets SIGTERM or SIGINT; returns its exit code.

    Args:
        root: the project's folder.
        command: what to run; None: the worker of the pool.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    command = command or [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    # A session of its own, so that Ctrl-C in a terminal reaches this process alone
    environment = os.environ | works_for_this(WORKER)
    child = subprocess.Popen(command, cwd=root, env=environment, start_new_session=True)
    while child.poll() is None:
        if stopping.wait(POLL_SECONDS):
            stop(child)
    return child.returncode


def stop(worker: subprocess.Popen[bytes]) -> None:
    """End the worker's flow runs, then the worker, then whatever is left of both."""
    try:
        process = psutil.Process(worker.pid)
        flow_runs, everything = process.children(), process.children(recursive=True)
    except psutil.NoSuchProcess:
        worker.wait()
        return
    for flow_run in flow_runs:
        terminate(flow_run)
    deadline = time.monotonic() + FLOW_GRACE_SECONDS
    while any(map(is_alive, flow_runs)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    terminate(process)
    try:
        worker.wait(WORKER_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    for left in filter(is_alive, everything):
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and whose parent has not noticed does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def terminate(process: psutil.Process) -> None:
    """SIGTERM, if the process is still there."""
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        return
