"""When something is tried again: only after a lock, a network or a memory failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prefect.client.schemas.objects import State, TaskRun

from pipeline.temporary import TemporaryFailureError, is_lock, is_temporary

DELAYS = [10, 60, 300]  # seconds
# Another DVC process works on the same files until its stage ends, which may be a training
LOCK_PAUSE_SECONDS = 5.0
LONGEST_LOCK_SECONDS = 12 * 3600.0
POLL_SECONDS = 0.2


def is_worth_retrying(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a task's failure may pass by itself; a wrong image or setting fails the same again."""
    try:
        state.result()
    except TemporaryFailureError:
        return True
    except Exception:
        return False
    return False


PATIENT: dict[str, Any] = {
    "retries": len(DELAYS),
    "retry_delay_seconds": DELAYS,
    "retry_condition_fn": is_worth_retrying,
}


def patiently(
    attempt: Callable[[], tuple[int, str]], stopped: Callable[[], bool], say: Callable[[str], None]
) -> int:
    """Run a command again while another process holds its files, and a few times after other such failures.

    Args:
        attempt: runs the command; returns its exit code and the end of its output.
        stopped: whether to give up.
        say: receives one line per pause.

    Returns:
        The exit code of the last attempt.
    """
    give_up = time.monotonic() + LONGEST_LOCK_SECONDS
    delays = [float(seconds) for seconds in DELAYS]
    while True:
        code, output = attempt()
        if stopped() or not is_temporary(code, output):
            return code
        if is_lock(output) and time.monotonic() < give_up:
            pause, why = LOCK_PAUSE_SECONDS, "another DVC process works on the same files"
        elif delays and not is_lock(output):
            pause, why = delays.pop(0), f"exit {code}, which may pass"
        else:
            return code
        say(f"{why}: tried again in {pause:g} s")
        until = time.monotonic() + pause
        while time.monotonic() < until and not stopped():
            time.sleep(min(POLL_SECONDS, pause))
