"""Errors that the user can fix: one message, no traceback. Every other exception keeps its traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "METALDEFECT_TRACEBACK"


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


@contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
    """On a `UserError`, print `program: message` and exit with code 1.

    `METALDEFECT_TRACEBACK=1` prints the traceback before the message.
    """
    try:
        yield
    except UserError as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        sys.exit(f"{program}: {error}")
