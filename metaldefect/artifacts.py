"""Atomic writes: at every instant either the old artefact or the new one is complete on disk.

A writer prepares the new artefact in a hidden folder beside the target (`.<name>.tmp-*`), then swaps the
two. It holds a lock (`flock`) on that folder, which the kernel releases whenever the process ends. The next
writer therefore removes the unlocked folders of killed processes and leaves the locked ones alone.

Linux swaps folders in one system call (`renameat2`, RENAME_EXCHANGE). Where the kernel or the file system
lacks it, the writer uses two renames: the old folder moves to `.<name>.old-*`, then the new one moves in.
A process killed between the two leaves no folder at the target but a complete old one; the next
`atomic_directory` on that target moves it back. On a file system without `flock` (some network ones) no
leftovers are removed, and concurrent writers are safe only if the swap is one system call.

All this protects against killed processes. Single files are also flushed to disk before they replace the
old ones; folders are not, so a power cut can lose files of a folder written seconds before.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metaldefect.errors import UserError, is_disk_full

AT_FDCWD = -100  # renameat2: paths are relative to the working directory
RENAME_EXCHANGE = 2
# Error codes of renameat2 when the kernel or the file system cannot exchange
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
ALMOST_NOTHING = 64 * 1024  # bytes of free space
# Another writer created or removed the target between our check and our rename
OVERTAKEN = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


@contextmanager
def atomic_directory(path: Path | str) -> Iterator[Path]:
    """Yield an empty directory beside `path` that replaces `path` when the block ends without error.

    On an error, the new directory is removed and `path` stays unchanged. Of two concurrent writers, the last
    to finish wins, and its directory is complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_interrupted_swap(path)
    with working_directory(path) as temporary:
        temporary.chmod(0o755)  # mkdtemp makes it private, but other users may read outputs
        yield temporary
        put_in_place(temporary, path)


def replace_directory(new: Path, path: Path) -> None:
    """Move a finished folder to `path`, as safely as `atomic_directory`; both must share a file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_interrupted_swap(path)
    with working_directory(path) as folder:
        os.rename(new, folder / path.name)
        put_in_place(folder / path.name, path)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path; the file that the block writes there replaces `path` at the end.

    The temporary file has the same name and lies in a hidden folder beside `path`.
    """
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
    """Yield a new, locked folder beside `path`; remove whatever has that folder's name at the end.

    Raises:
        OSError: the disk is full; the error names `path`.
    """
    prefix = f".{path.name}.tmp-"
    sweep_leftovers(path.parent, prefix)
    temporary, lock = make_locked_directory(path.parent, prefix)
    try:
        yield temporary
    except Exception as error:
        if not isinstance(error, UserError) and shows_full_disk(error, temporary):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        remove(temporary)
        os.close(lock)


def shows_full_disk(error: Exception, folder: Path) -> bool:
    """Whether a full disk below `folder` is the reason of an error that does not name the place itself.

    The writers of torch, NumPy and OpenVINO raise `RuntimeError` or `OSError` without the system's reason:
    what they have written until then still fills the disk.
    """
    if is_disk_full(error):
        place = getattr(error, "filename", None)
        return place is None or Path(os.fsdecode(place)).is_relative_to(folder)
    return isinstance(error, OSError | RuntimeError) and free_space(folder.parent) < ALMOST_NOTHING


def free_space(folder: Path) -> float:
    """Bytes that are free on a folder's disk; infinite where the file system does not say."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return math.inf
    return usage.free if usage.total else math.inf


def make_locked_directory(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder; return it and the descriptor that holds its lock.

    Retries because another process may sweep the folder away before it is locked.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # without flock, no writer ever sweeps the folder
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def sweep_leftovers(parent: Path, prefix: str) -> None:
    """Remove the folders that no running process has locked."""
    for leftover in matches(parent, prefix):
        try:
            lock = os.open(leftover, os.O_RDONLY)
        except OSError:  # already removed, or not readable
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its writer still runs, or the file system has no flock
            continue
        else:
            remove(leftover)
        finally:
            os.close(lock)


def put_in_place(new: Path, path: Path) -> None:
    """Move the folder `new` to `path`; the old content of `path` is moved to `new` or deleted."""
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
    """Swap two paths in one system call; return False if the system has no such call.

    Raises:
        OSError: the swap failed for another reason, such as a missing path.
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
    """The C library's `renameat2`, or None if it has none."""
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
    """Undo or finish the two renames if a process was killed between them."""
    if matches(path.parent, f".{path.name}.old-"):
        with locked(path.parent):
            finish_swap(path)


def finish_swap(path: Path) -> None:
    """Move the old folder back if `path` is missing; delete it if the new one is in place.

    Every swap calls this first, under the lock, so at most one old folder exists while `path` is missing.
    """
    for aside in matches(path.parent, f".{path.name}.old-"):
        if os.path.lexists(path):
            remove(aside)
        else:
            os.rename(aside, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, if its file system supports locks."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def matches(parent: Path, prefix: str) -> list[Path]:
    """Entries of `parent` whose names begin with `prefix`, sorted."""
    return sorted(parent.glob(f"{glob.escape(prefix)}*"))


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` atomically as indented JSON with sorted keys; NaN raises `ValueError`."""
    with atomic_file(path) as temporary:
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or not valid JSON.
    """
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
    """Check that a file is the one its card describes.

    Raises:
        UserError: the SHA-256 is not `expected`.
    """
    if (actual := sha256_file(path)) != expected:
        raise UserError(f"{path} has SHA-256 {actual}, its card says {expected}: restore the file")
