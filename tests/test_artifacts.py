"""Atomic writes: the old artefact or the new one is complete at every instant, whoever dies or writes."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from metaldefect import artifacts
from metaldefect.artifacts import atomic_directory, atomic_file, read_json, replace_directory, write_json
from metaldefect.errors import UserError

ROOT = Path(__file__).parents[1]
FILES = 40

# Writes the folder argv[1] again and again; every file of it holds the writer's name and the round.
WRITER = f"""
import itertools, sys
from pathlib import Path
from typing import Any
from metaldefect import artifacts
{{patch}}
for turn in itertools.count():
    with artifacts.atomic_directory(Path(sys.argv[1])) as folder:
        for k in range({FILES}):
            (folder / f"{{{{k}}}}.txt").write_text(f"{{{{sys.argv[2]}}}} {{{{turn}}}}")
"""

NO_EXCHANGE = "artifacts.exchange = lambda first, second: False"

# Kills its own process in the middle of the second swap that takes two steps
DIE_BETWEEN_RENAMES = f"""
import os, signal
{NO_EXCHANGE}
calls = []
rename = os.rename
def dying_rename(first, second):
    if ".old-" not in str(second) and len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(first)
    rename(first, second)
os.rename = dying_rename
"""

DIE_AFTER_EXCHANGE = """
import os, signal
exchange = artifacts.exchange
def dying_exchange(first, second):
    exchange(first, second)
    os.kill(os.getpid(), signal.SIGKILL)
artifacts.exchange = dying_exchange
"""


def start_writer(target: Path, name: str = "a", patch: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER.format(patch=patch), str(target), name],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.is_dir():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.01)


def kill(writer: subprocess.Popen[bytes]) -> None:
    writer.kill()
    writer.wait()


def contents(target: Path) -> set[str]:
    """What the files say; more than one entry, or a wrong number of files, is a folder of two rounds."""
    names = sorted(os.listdir(target))
    assert len(names) == FILES, f"{len(names)} of {FILES} files"
    return {(target / name).read_text() for name in names}


class Reader(threading.Thread):
    """Looks at a folder all the time and notes when it is missing or mixed.

    A look counts where the same folder was there before and after it: a folder that has been replaced
    meanwhile is being removed.
    """

    def __init__(self, target: Path) -> None:
        super().__init__()
        self.target, self.looks, self.faults = target, 0, list[str]()
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            before, fault = self.identity(), ""
            if before is None:
                self.faults.append("missing")
                continue
            try:
                if len(found := contents(self.target)) != 1:
                    fault = f"mixed: {found}"
            except (FileNotFoundError, AssertionError) as error:
                fault = str(error)
            if self.identity() == before:
                self.looks += 1
                self.faults += [fault] if fault else []

    def identity(self) -> tuple[int, int] | None:
        try:
            found = self.target.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def stop(self) -> None:
        self.stopping.set()
        self.join()
        assert self.looks > 10
        assert not self.faults, f"{len(self.faults)} faults, such as {self.faults[:3]}"


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*"))


def test_a_directory_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as directory:
        (directory / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(target) as directory:
        (directory / "a").write_text("half")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    with atomic_directory(target) as directory:
        (directory / "b").write_text("new")
    assert sorted(p.name for p in target.iterdir()) == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").touch()
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial/new").touch()
    replace_directory(tmp_path / "partial", tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "out",
        "out/new",
    ]


def test_a_killed_writer_never_leaves_the_folder_missing_or_half_written(tmp_path: Path) -> None:
    target = tmp_path / "out"
    kill_times = random.Random(0)
    writer = start_writer(target)
    wait_for(target)
    reader = Reader(target)
    reader.start()
    for _ in range(20):
        time.sleep(kill_times.uniform(0.1, 0.3))
        kill(writer)
        assert len(contents(target)) == 1
        writer = start_writer(target)
    kill(writer)
    reader.stop()

    with atomic_directory(target) as directory:
        (directory / "last").touch()
    assert leftovers(tmp_path) == []


def test_two_writers_at_once_each_write_a_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    writers = [start_writer(target, name) for name in "ab"]
    wait_for(target)
    reader = Reader(target)
    reader.start()
    seen = set[str]()
    deadline = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            seen.add((target / "0.txt").read_text().split()[0])
    time.sleep(1)
    assert [writer.poll() for writer in writers] == [None, None], "both are still at work"
    for writer in writers:
        kill(writer)
    reader.stop()
    assert seen == {"a", "b"}


def test_a_writer_killed_after_the_exchange_leaves_the_new_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as directory:
        (directory / "old").touch()

    assert start_writer(target, patch=DIE_AFTER_EXCHANGE).wait(60) == -signal.SIGKILL

    assert contents(target) == {"a 0"}
    assert len(leftovers(tmp_path)) == 1
    with atomic_directory(target):
        assert len(leftovers(tmp_path)) == 1, "the dead writer's folder is swept, one's own is there"


def test_without_an_exchange_call_a_writer_killed_between_two_renames_is_recovered(tmp_path: Path) -> None:
    target = tmp_path / "out"

    assert start_writer(target, patch=DIE_BETWEEN_RENAMES).wait(60) == -signal.SIGKILL

    assert not target.exists()
    with pytest.raises(RuntimeError), atomic_directory(target):
        assert contents(target) == {"a 0"}, "the old folder is back before anything is written"
        raise RuntimeError
    assert contents(target) == {"a 0"}
    assert leftovers(tmp_path) == []


def test_without_an_exchange_call_two_writers_still_write_whole_folders(tmp_path: Path) -> None:
    target = tmp_path / "out"
    writers = [start_writer(target, name, NO_EXCHANGE) for name in "ab"]
    wait_for(target)
    time.sleep(1)
    assert [writer.poll() for writer in writers] == [None, None], "both are still at work"
    for writer in writers:
        kill(writer)
    with pytest.raises(RuntimeError), atomic_directory(target):
        raise RuntimeError
    assert len(contents(target)) == 1
    assert leftovers(tmp_path) == []


def test_exchange_is_one_system_call_here(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("file")
    if not artifacts.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system has no RENAME_EXCHANGE")
    assert (tmp_path / "a").read_text() == "file"
    assert (tmp_path / "b").is_dir()
    with pytest.raises(FileNotFoundError):
        artifacts.exchange(tmp_path / "a", tmp_path / "none")


def test_only_a_dead_writers_leftovers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp-dead").mkdir()
    with atomic_directory(tmp_path / "out") as living:
        (living / "work").touch()
        assert not (tmp_path / ".out.tmp-dead").exists()
        with atomic_directory(tmp_path / "out") as second:
            (second / "second").touch()
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]
        assert [path.name for path in living.iterdir()] == ["work"], "the second writer left it alone"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["work"]
    assert leftovers(tmp_path) == []


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_two_writers_of_one_file_in_one_thread_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    with atomic_file(target) as first:
        first.write_text("first")
        with atomic_file(target) as second:
            second.write_text("second")
            assert first.read_text() == "first"
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.txt"
    synced = []

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, target.exists()))

    monkeypatch.setattr(os, "fsync", note)
    with atomic_file(target) as temporary:
        temporary.write_text("four")
    assert synced == [(4, False)]


def test_json_refuses_nan_and_names_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"b\.json is not valid JSON"):
        read_json(tmp_path / "b.json")


def write_to_full_device() -> None:
    with Path("/dev/full").open("wb", buffering=0) as stream:
        stream.write(b"bytes")


def lose_the_reason() -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


def say_it_in_words() -> None:
    raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("write", "free"),
    [(write_to_full_device, 10**9), (say_it_in_words, 10**9), (lose_the_reason, 100)],
)
@pytest.mark.parametrize("atomic", [atomic_directory, atomic_file])
def test_a_full_disk_is_named_whatever_the_writer_says(
    atomic: Any, write: Callable[[], None], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "free_space", lambda folder: free)
    with pytest.raises(OSError, match="No space left on device") as caught, atomic(tmp_path / "model"):
        write()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/elsewhere/a"),
        RuntimeError("shapes differ"),
        UserError("No space left on device"),
    ],
    ids=["another_disk", "mistake", "user_error"],
)
def test_other_errors_pass_unchanged(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, atomic_directory(tmp_path / "model"):
        raise error
    assert caught.value is error


def test_a_mistake_on_a_full_disk_keeps_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "free_space", lambda folder: 0)
    with pytest.raises(ValueError, match="negative"), atomic_directory(tmp_path / "model"):
        raise ValueError("negative")
