"""Locks that a killed git process left in a repository: every later git command would refuse to work."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import psutil

from pipeline.orphans import processes_in

# Git holds a lock for a moment; ten minutes are enough for the largest repository
STALE_SECONDS = 600.0


def remove_stale_locks(root: Path) -> list[str]:
    """Delete git's locks that are older than ten minutes, unless a git process works in the project.

    Args:
        root: the project's folder.

    Returns:
        The deleted files, relative to `root`.
    """
    oldest = time.time() - STALE_SECONDS
    stale = [path for path in sorted((root / ".git").rglob("*.lock")) if changed_at(path) < oldest]
    if not stale or is_git_running(root):
        return []
    for path in stale:
        path.unlink(missing_ok=True)
    return [path.relative_to(root).as_posix() for path in stale]


def changed_at(path: Path) -> float:
    """When a file changed last; never, for one that its owner has just deleted."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def is_git_running(root: Path) -> bool:
    """Whether a git process works in a folder."""
    for process in processes_in(root):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("git"):
                return True
    return False
