"""Locks of killed git processes are removed, and those that a process may still hold are not."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from pipeline.git_locks import is_git_running, remove_stale_locks


def plant_lock(path: Path, minutes: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - 60 * minutes,) * 2)
    return path


def test_old_locks_go_and_young_ones_stay(tmp_path: Path) -> None:
    plant_lock(tmp_path / ".git/index.lock", 11)
    plant_lock(tmp_path / ".git/refs/heads/main.lock", 11)
    young = plant_lock(tmp_path / ".git/HEAD.lock", 9)
    own = plant_lock(tmp_path / "requirements.lock", 11)
    assert remove_stale_locks(tmp_path) == [".git/index.lock", ".git/refs/heads/main.lock"]
    assert young.is_file()
    assert own.is_file()


def test_nothing_is_removed_while_git_works(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    lock = plant_lock(tmp_path / ".git/index.lock", 11)
    with subprocess.Popen(["git", "cat-file", "--batch"], cwd=tmp_path, stdin=subprocess.PIPE) as working:
        deadline = time.monotonic() + 30
        while not is_git_running(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert remove_stale_locks(tmp_path) == []
        assert working.stdin is not None
        working.stdin.close()
    assert remove_stale_locks(tmp_path) == [".git/index.lock"]
    assert not lock.exists()


def test_a_lock_that_git_deletes_meanwhile_is_none(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/index.lock").symlink_to("gone")
    assert remove_stale_locks(tmp_path) == []
