"""Which failures are worth another try: a lock, the network, memory. Everything else fails the same again."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

from metaldefect.errors import UserError

# Linux kills the largest process when memory is short; a shell reports its signal as 128 + 9
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
LOCK = re.compile(
    r"is busy, it is being blocked|Unable to acquire lock|another DVC process|database is locked",
    re.IGNORECASE,
)
SIGNS = re.compile(
    r"MemoryError|Cannot allocate memory|out of memory|can't allocate memory|exited with (-9|137)\b"
    r"|Connection (refused|reset|aborted|timed out)|ConnectionError|ConnectTimeout|ReadTimeout"
    r"|Temporary failure in name resolution|Network is unreachable|No route to host"
    # Git's lock; one that a killed git left is removed after ten minutes, so it is no lock to wait hours for
    r"|Another git process seems to be running"
)


class TemporaryFailureError(RuntimeError):
    """Something was in the way that may be gone later: a lock, the network, memory."""


def is_lock(output: str) -> bool:
    """Whether a command says that another process holds what it needs."""
    return LOCK.search(output) is not None


def is_temporary(code: int, output: str) -> bool:
    """Whether a command may succeed later, by its exit code (negative: the signal) and its output."""
    return code in KILLED or (code != 0 and (is_lock(output) or SIGNS.search(output) is not None))


def run_command(root: Path, command: list[str]) -> None:
    """Run a command in a project's folder; its failure becomes one message.

    Raises:
        TemporaryFailureError: it failed for a reason that may be gone later.
        UserError: it failed.
    """
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return
    output = (done.stderr or done.stdout).strip()
    text = f"{' '.join(command[-4:])} ended with {done.returncode}: {output}"
    raise TemporaryFailureError(text) if is_temporary(done.returncode, output) else UserError(text)
