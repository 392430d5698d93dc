"""A detector in production: replaced between two frames, rolled back, and shadowed by a challenger."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from numpy.typing import NDArray

from metaldefect.deploy.runtime import Detection, Detector
from metaldefect.errors import RejectedFileError, UserError

SHADOW_BACKLOG = 4  # frames that may wait for the challenger; further ones are not shown to it


class Named(NamedTuple):
    """An image `[H, W]` or `[H, W, C]` and the id of its verdict."""

    id: str
    image: NDArray[Any]


# Receives the frame, the detector's verdict and the challenger's; None: the challenger was behind or failed
Report = Callable[[Named, Detection, Detection | None], None]


class LiveDetector:
    """A detector that can be swapped while it scores.

    A frame is scored by the detector that was current when it arrived, so a swap drops no frame.

    Args:
        load: loads the bundle, self-test included; called again by `reload`.
    """

    def __init__(self, load: Callable[[], Detector]) -> None:
        self._load = load
        self._swapping = threading.Lock()
        self.current = self._warm()
        self.previous: Detector | None = None
        self._shadow: Shadow | None = None

    def predict(self, image: NDArray[Any], detector: Detector | None = None, id: str = "") -> Detection:
        """The verdict on a frame; errors as for `Detector.predict`.

        Args:
            image: the frame.
            detector: `current`, asked before the frame was read, so that the same detector's rules read it.
            id: by which a challenger's report names it.
        """
        detector = detector or self.current
        detection = detector.predict(image)
        self._offer(Named(id, image), detection, detector)
        return detection

    def stream(self, images: Iterable[Named], detector: Detector) -> Iterator[tuple[Named, Detection]]:
        """Verdicts in order, several at once and few in memory.

        Args:
            images: the frames.
            detector: `current`, asked once for the whole stream.
        """
        taken: deque[Named] = deque()

        def pixels() -> Iterator[NDArray[Any]]:
            for named in images:
                taken.append(named)
                yield named.image

        for detection in detector.stream(pixels()):
            named = taken.popleft()
            self._offer(named, detection, detector)
            yield named, detection

    def _offer(self, named: Named, detection: Detection, detector: Detector) -> None:
        if (shadow := self._shadow) is not None:  # another thread may end it meanwhile
            shadow.offer(named, detection, detector)

    def reload(self) -> None:
        """Load the bundle again and use it from the next frame on; the old one stays for `rollback`.

        The same bundle again, as after a request that was sent twice, leaves the one to go back to.

        Raises:
            UserError: the new bundle is refused; the old one stays in use.
        """
        with self._swapping:
            new = self._warm()
            if new.version != self.current.version:
                self.previous = self.current
            self.current = new

    def rollback(self) -> None:
        """Use the previous detector again.

        Raises:
            UserError: there is none.
        """
        with self._swapping:
            if self.previous is None:
                raise UserError("no previous detector to go back to: nothing was reloaded yet")
            self.previous, self.current = self.current, self.previous

    def shadow(self, challenger: Detector, report: Report) -> None:
        """Let a challenger score the same frames, without a say; the one before finishes its frames.

        Args:
            challenger: the other detector.
            report: called for every frame, with None if the challenger did not score it.
        """
        self._replace_shadow(Shadow(challenger, report))

    def end_shadow(self) -> None:
        """Show no more frames to the challenger, and wait until it has scored its last one."""
        self._replace_shadow(None)

    def _replace_shadow(self, new: Shadow | None) -> None:
        old, self._shadow = self._shadow, new
        if old is not None:
            old.close()

    def close(self) -> None:
        """Wait until the challenger has scored its last frame."""
        self.end_shadow()

    def _warm(self) -> Detector:
        detector = self._load()
        detector.warm_up()
        return detector


def reads_alike(reader: Detector, other: Detector) -> bool:
    """Whether a frame that one detector has read is what the other would have read from the same file.

    A grey detector makes grey of colours itself; colours do not come back from grey.
    """
    return reader.levels == other.levels and (reader.channels == other.channels or other.channels == 1)


class Shadow:
    """Scores frames with a challenger in a thread of its own; while it is behind, frames pass it by."""

    def __init__(self, challenger: Detector, report: Report) -> None:
        self.challenger, self.report = challenger, report
        self._places = threading.Semaphore(SHADOW_BACKLOG)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="shadow")

    def offer(self, named: Named, detection: Detection, detector: Detector) -> None:
        """Queue a frame that `detector` has read, unless the challenger is behind or reads otherwise."""
        if reads_alike(detector, self.challenger) and self._places.acquire(blocking=False):
            try:
                self._worker.submit(self._score, named, detection)
                return
            except RuntimeError:  # closed meanwhile
                self._places.release()
        self.report(named, detection, None)

    def _score(self, named: Named, detection: Detection) -> None:
        try:
            try:
                other = self.challenger.predict(named.image)
            except RejectedFileError:  # it takes other images, such as fewer levels
                other = None
            self.report(named, detection, other)
        except Exception:  # nobody waits for this result, and the line must not stop
            traceback.print_exc()
        finally:
            self._places.release()

    def close(self) -> None:
        """Finish the queued frames."""
        self._worker.shutdown(wait=True)
