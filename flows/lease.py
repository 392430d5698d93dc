"""One retraining at a time per project, and who to clean up after when one was killed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaldefect.errors import UserError

LEASE = Path(".dvc/tmp/retrain.lease")


@dataclass
class Lease:
    """The right to retrain; `left_over` is what the last holder wrote down, if it was killed."""

    stream: Any
    left_over: dict[str, str] | None

    def note(self, **facts: str) -> None:
        """Write down what a later run has to clean up if this one is killed."""
        self.stream.seek(0)
        self.stream.truncate()
        json.dump(facts, self.stream)
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def clear(self) -> None:
        """Nothing has to be cleaned up any more."""
        self.stream.seek(0)
        self.stream.truncate()
        self.stream.flush()


@contextmanager
def lease(root: Path) -> Iterator[Lease]:
    """Hold the project's lease; the kernel releases it when the process ends, however it ends.

    Raises:
        UserError: another retraining of this project runs.
    """
    path = root / LEASE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = read(stream.read()) or {}
            raise UserError(
                f"another retraining of {root} runs (process {holder.get('pid', 'unknown')}, flow run"
                f" {holder.get('flow_run_id', 'unknown')}): wait for it, or cancel it in Prefect"
            ) from error
        stream.seek(0)
        held = Lease(stream, read(stream.read()))
        try:
            yield held
        finally:
            held.clear()


def read(text: str) -> dict[str, str] | None:
    """What a holder wrote down; None if nothing, or if it was killed while writing."""
    try:
        return dict(json.loads(text)) if text.strip() else None
    except ValueError:
        return {}
