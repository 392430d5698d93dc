"""A service that follows folders: when another bundle appears in one, it is tested and taken into use."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from fastapi import HTTPException

from metaldefect.deploy.bundle import bundle_version
from metaldefect.deploy.runtime import Detector
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
        """Path, time of change and size of everything in the folder, at any depth."""
        try:
            found = [(str(path.relative_to(self.model)), path.stat()) for path in self.model.rglob("*")]
        except OSError:
            return ()
        return tuple(sorted((name, status.st_mtime_ns, status.st_size) for name, status in found))

    def look(self) -> bool:
        """Take the bundle if it is another one than at the last look; return whether it was taken."""
        found, state = self.content(), self.state()
        if found == self._seen:
            self._refused = None
        if found is None or found == self._seen or state == self._refused:
            return False
        try:
            done = self.take()
        except Exception as error:  # whatever is wrong with it, this thread has to see the next one
            reason = error.detail if isinstance(error, HTTPException) else f"{type(error).__name__}: {error}"
            print(f"{self.model} is not used: {reason}", file=sys.stderr, flush=True)
            self._refused = state
            return False
        self._seen, self._refused = found, None
        print(f"{self.model} {done}", flush=True)
        return True

    def take(self) -> str:
        """Load the bundle and use it; returns what the folder now does, in words."""
        status = self.service.swap(self.service.live.reload)
        return f"now serves version {status.model_version}"

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


class ChallengerFollower(Follower):
    """As `Follower`, for the folder of a challenger, which may appear, change and go.

    Args:
        service: shows images to the challenger.
        model: the folder; nothing needs to be there yet.
        load: loads the bundle in it.
        interval: seconds between two looks.
    """

    def __init__(
        self,
        service: Service,
        model: Path,
        load: Callable[[], Detector],
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        super().__init__(service, model, interval)
        self.load = load
        self._seen = service.challenger.detector.version if service.challenger else None

    def look(self) -> bool:
        """As `Follower.look`; once the folder holds no bundle, the service goes on without a challenger."""
        if self._seen is not None and self.content() is None:
            self._seen = None
            self.service.dismiss()
            print(f"{self.model} is gone: no challenger", flush=True)
        return super().look()

    def take(self) -> str:
        """Load the challenger and show it the next images."""
        challenger = self.load()
        challenger.warm_up()
        self.service.challenge(challenger)
        return f"now challenges with version {challenger.version}"
