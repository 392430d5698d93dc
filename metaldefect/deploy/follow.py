"""A service that follows a folder: when another bundle appears there, it is tested and swapped in."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

from fastapi import HTTPException

from metaldefect.deploy.bundle import bundle_version
from metaldefect.deploy.service import Service
from metaldefect.errors import UserError

INTERVAL_SECONDS = 2.0
State = tuple[tuple[str, int, int], ...]


class Follower:
    """Looks every two seconds whether a folder, or where its link leads, holds another bundle.

    Only a change of the folder counts: after a rollback over HTTP, the service stays where it is until the
    next bundle appears. A bundle that is refused changes nothing, and is tried again once one of its files
    changes: it may still have been on its way.

        with Follower(service, Path("models/champion")):
            ...

    Args:
        service: reloads.
        model: the folder.
        interval: seconds between two looks.
    """

    def __init__(self, service: Service, model: Path, interval: float = INTERVAL_SECONDS) -> None:
        self.service, self.model, self.interval = service, model, interval
        self._seen: str | None = service.live.current.version
        self._refused: State | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def content(self) -> str | None:
        """The version of the bundle in the folder; None while there is none."""
        try:
            return bundle_version(self.model)
        except (OSError, UserError):
            return None

    def state(self) -> State:
        """Name, time of change and size of every file in the folder."""
        try:
            found = [(path.name, path.stat()) for path in self.model.iterdir()]
        except OSError:
            return ()
        return tuple(sorted((name, status.st_mtime_ns, status.st_size) for name, status in found))

    def look(self) -> bool:
        """Reload if the folder holds another bundle than at the last look; return whether it was taken."""
        found, state = self.content(), self.state()
        if found == self._seen:
            self._refused = None
        if found is None or found == self._seen or state == self._refused:
            return False
        try:
            status = self.service.swap(self.service.live.reload)
        except Exception as error:  # whatever is wrong with it, this thread has to see the next one
            reason = error.detail if isinstance(error, HTTPException) else f"{type(error).__name__}: {error}"
            print(f"{self.model} is not used: {reason}", file=sys.stderr, flush=True)
            self._refused = state
            return False
        self._seen, self._refused = found, None
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
