"""A service that follows a folder: when another bundle appears there, it is tested and swapped in."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

from fastapi import HTTPException

from metaldefect.artifacts import sha256_file
from metaldefect.deploy.bundle import METADATA
from metaldefect.deploy.service import Service

INTERVAL_SECONDS = 2.0


class Follower:
    """Looks every two seconds whether a folder, or where its link leads, holds another bundle.

    Only a change of the folder counts: after a rollback over HTTP, the service stays where it is until the
    next bundle appears. A bundle that is refused changes nothing, and is not tried again.

        with Follower(service, Path("models/champion")):
            ...

    Args:
        service: reloads.
        model: the folder.
        interval: seconds between two looks.
    """

    def __init__(self, service: Service, model: Path, interval: float = INTERVAL_SECONDS) -> None:
        self.service, self.model, self.interval = service, model, interval
        self._seen = self.content()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def content(self) -> str | None:
        """What identifies the bundle in the folder; None while there is none."""
        try:
            return sha256_file(self.model / METADATA)
        except OSError:
            return None

    def look(self) -> bool:
        """Reload if the folder holds another bundle than at the last look; return whether it was taken."""
        found = self.content()
        if found is None or found == self._seen:
            return False
        self._seen = found
        try:
            status = self.service.swap(self.service.live.reload)
        except Exception as error:  # whatever is wrong with it, this thread has to see the next one
            reason = error.detail if isinstance(error, HTTPException) else f"{type(error).__name__}: {error}"
            print(f"{self.model} is not used: {reason}", file=sys.stderr, flush=True)
            return False
        print(f"{self.model} now serves version {status.model_version}", flush=True)
        return True

    def _follow(self) -> None:
        while not self._stop.wait(self.interval):
            self.look()

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
