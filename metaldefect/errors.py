"""Errors that the user can fix: one message, no traceback. Every other exception keeps its traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRACEBACK_VARIABLE = "METALDEFECT_TRACEBACK"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Of errors without a code: safetensors, SQLite (also through MLflow), `tempfile` where every disk is full
DISK_FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|database or disk is full|No usable temporary directory"
)


class UserError(Exception):
    """The user's input is wrong: a file, a folder, a setting, a mask, a missing model.

    The message names the file or the setting, the value found there, and what to do about it.
    Bugs in this code never raise it: they raise `ValueError`, `TypeError` and so on.
    """


class RejectedFileError(UserError):
    """A file is unusable; the message holds only the reason, not the path."""


def printable(text: str) -> str:
    """Escape line breaks, other control characters and bytes that are not UTF-8, as in `\\n` or `\\xbb`."""
    try:
        readable = os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a character, which JSON can hold and no file name
        readable = text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in readable)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or the user's share of it is full."""
    return getattr(error, "errno", None) in DISK_FULL or DISK_FULL_WORDS.search(str(error)) is not None


def full_disk_message(error: BaseException) -> str:
    """One sentence about a full disk: where, how much was wanted if the error says so, and what to do."""
    place = getattr(error, "filename2", None) or getattr(error, "filename", None)  # a copy's target is second
    words = DISK_FULL_WORDS.search(str(error))
    reason = getattr(error, "strerror", None) or (words and words[0]) or str(error)
    where = f"the disk of {printable(os.fsdecode(place))}" if place else "a disk"
    temporary = "temporary directory" in reason or (
        place and tempfile.tempdir and Path(os.fsdecode(place)).is_relative_to(os.fsdecode(tempfile.tempdir))
    )
    advice = "free some space" + (", or set TMPDIR to a folder on another disk" if temporary else "")
    return f"{where} is full ({reason}): {advice}"


@contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
    """On a `UserError` or a full disk, print `program: message` and exit with code 1.

    `METALDEFECT_TRACEBACK=1` prints the traceback before the message.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError) and not is_disk_full(error):
            raise
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        message = str(error) if isinstance(error, UserError) else full_disk_message(error)
        sys.exit(f"{program}: {message}")
