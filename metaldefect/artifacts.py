"""Atomic writes: at every instant either the old artefact or the new one is complete on disk.

A writer prepares the new artefact in a hidden folder beside the target (`.<name>.tmp-*`) and then swaps
the two. It holds a lock (`flock`) on that folder, which the kernel releases when the process ends, however
it ends. So the next writer can tell the leftovers of a killed process, which it removes, from the folder
of a process that is still writing, which it leaves alone.

Linux swaps folders in one system call (`renameat2`, RENAME_EXCHANGE). Where the kernel or the file system
has no such call, two renames take its place: the old folder goes to `.<name>.old-*`, the new one goes in.
A process killed between the two leaves the target's name empty and the old folder complete; the next
`atomic_directory` on that target moves it back. On a file system without `flock` (some network ones)
nothing is swept, and two writers at once are safe only where the swap is one system call.

This covers killed processes. Files are also flushed to the disk before they replace their predecessor;
folders are not, so a power cut may cost the files of a folder written in the seconds before it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metaldefect.errors import UserError

AT_FDCWD = -100  # renameat2: paths are relative to the working directory
RENAME_EXCHANGE = 2
# renameat2 says so where the kernel or the file system cannot exchange
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
# The target appeared or went away between a check and a rename: another writer was faster
OVERTAKEN = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


@contextmanager
def atomic_directory(path: Path | str) -> Iterator[Path]:
    """Yield an empty directory beside `path` that replaces `path` when the block ends without error.

    On an error it is removed and `path` stays as it was. Of two writers at once the later one wins, whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_interrupted_swap(path)
    with working_directory(path) as temporary:
        temporary.chmod(0o755)  # mkdtemp makes it private; outs are shared like any other folder
        yield temporary
        put_in_place(temporary, path)


def replace_directory(new: Path, path: Path) -> None:
    """Move a finished folder of the same file system to `path`, with the guarantees of `atomic_directory`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_interrupted_swap(path)
    with working_directory(path) as folder:
        os.rename(new, folder / path.name)
        put_in_place(folder / path.name, path)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a path of the same name in a hidden folder; what the block writes there replaces `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with working_directory(path) as folder:
        temporary = folder / path.name
        yield temporary
        temporary.chmod(0o644)  # some writers make their files private
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)


@contextmanager
def working_directory(path: Path) -> Iterator[Path]:
    """Yield a new, locked folder beside `path`; what is there at the end, under its name, is removed."""
    prefix = f".{path.name}.tmp-"
    sweep_leftovers(path.parent, prefix)
    temporary, lock = make_locked_directory(path.parent, prefix)
    try:
        yield temporary
    finally:
        remove(temporary)
        os.close(lock)


def make_locked_directory(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock.

    A sweep may remove the folder between its making and its locking; then another one is made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # no flock here: the folder is never swept
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def sweep_leftovers(parent: Path, prefix: str) -> None:
    """Remove the folders that no living process holds locked."""
    for leftover in matches(parent, prefix):
        try:
            lock = os.open(leftover, os.O_RDONLY)
        except OSError:  # gone, or not ours to read
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a living writer's, or no flock on this file system
            continue
        else:
            remove(leftover)
        finally:
            os.close(lock)


def put_in_place(new: Path, path: Path) -> None:
    """Move the folder `new` to `path`; what was at `path` is then under the name `new`, or gone."""
    while True:
        try:
            if not os.path.lexists(path):
                os.rename(new, path)
            elif not exchange(new, path):
                swap_in_two_steps(new, path)
            return
        except OSError as error:
            if error.errno not in OVERTAKEN or not new.is_dir():
                raise


def exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one system call; False where there is no such call.

    Raises:
        OSError: the swap failed for another reason, such as a path that does not exist.
    """
    call = renameat2()
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


@functools.cache
def renameat2() -> Callable[..., int] | None:
    """The C library's function, None where it has none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def swap_in_two_steps(new: Path, path: Path) -> None:
    """Replace `path` by `new` with two renames, one writer at a time."""
    with locked(path.parent):
        finish_swap(path)
        aside = path.with_name(f".{path.name}.old-{new.name.rpartition('-')[2]}")
        os.rename(path, aside)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside, path)
            raise
        remove(aside)


def recover_interrupted_swap(path: Path) -> None:
    """Undo or finish the two renames of a process that was killed between them."""
    if matches(path.parent, f".{path.name}.old-"):
        with locked(path.parent):
            finish_swap(path)


def finish_swap(path: Path) -> None:
    """Move the old folder back where `path` is missing, remove it where the new one is in place.

    Every swap calls this first, under the lock, so that there is never more than one old folder while
    `path` is missing.
    """
    for aside in matches(path.parent, f".{path.name}.old-"):
        if os.path.lexists(path):
            remove(aside)
        else:
            os.rename(aside, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, where its file system has locks."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def matches(parent: Path, prefix: str) -> list[Path]:
    """What lies in `parent` under a name that begins with `prefix`, sorted."""
    return sorted(parent.glob(f"{glob.escape(prefix)}*"))


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON with sorted keys, atomically; NaN is refused (it is not JSON)."""
    with atomic_file(path) as temporary:
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or broken file is an error that names it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(path: Path | str, expected: str) -> None:
    """Refuse a file that is not the one its card was written for.

    Raises:
        UserError: its SHA-256 is not `expected`.
    """
    if (actual := sha256_file(path)) != expected:
        raise UserError(f"{path} has SHA-256 {actual}, its card says {expected}: restore the file")
