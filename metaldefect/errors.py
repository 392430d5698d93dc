"""Errors that the user can fix: one message, no traceback. Every other exception keeps its traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "METALDEFECT_TRACEBACK"


class UserError(Exception):
    """The input is at fault: a file, a folder, a setting, a mask, a missing model.

    The message names the file or the setting, the value found there, and what to do about it.
    A mistake in this code is never a `UserError`: it stays a `ValueError`, `TypeError` and so on.
    """


@contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
    """End the process with exit code 1 and one message, `program: message`, on a `UserError`.

    `METALDEFECT_TRACEBACK=1` prints the traceback before the message.
    """
    try:
        yield
    except UserError as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        sys.exit(f"{program}: {error}")
