"""Child processes that never outlive the flow, because each one leads its own process group."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GRACE_SECONDS = 10.0


class StoppedError(RuntimeError):
    """No child can start, because the flow is being cancelled."""


class ChildProcesses:
    """The running children of a flow; safe to use from several threads.

    A stage is a grandchild (`dvc` starts it), so only a signal to the whole group ends it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def run(
        self,
        command: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> int:
        """Run `command`, pass each line of its output (both streams) to `on_line`, and return its exit code.

        Raises:
            StoppedError: `stop` was called before.
        """
        with self._lock:
            if self._stopped:
                raise StoppedError(f"not started, the flow is being cancelled: {' '.join(command)}")
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            self._running.add(child)
        threading.Thread(target=end_group_with_leader, args=(child,), daemon=True).start()
        try:
            assert child.stdout is not None
            with child.stdout:
                for line in child.stdout:
                    if line.strip():
                        on_line(line.rstrip())
            return child.wait()
        finally:
            with self._lock:
                self._running.discard(child)

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Stop every child's process group: SIGTERM, then SIGKILL after `grace` seconds."""
        with self._lock:
            self._stopped = True
            children = list(self._running)
        for child in children:
            signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + grace
        for child in children:
            while signal_group(child, 0) and time.monotonic() < deadline:
                child.poll()  # reaps the leader: a zombie keeps its group alive
                time.sleep(0.05)
            signal_group(child, signal.SIGKILL)


def end_group_with_leader(child: subprocess.Popen[str]) -> None:
    """Kill what is left of a group once its leader has ended.

    A stage whose `dvc` was killed would go on without anybody to record it, beside the second try.
    """
    child.wait()
    signal_group(child, signal.SIGKILL)


def signal_group(child: subprocess.Popen[str], number: int) -> bool:
    """Send a signal to a child's group; return False if the group no longer exists."""
    try:
        os.killpg(child.pid, number)  # start_new_session makes the child's pid its group's id
    except ProcessLookupError:
        return False
    return True
