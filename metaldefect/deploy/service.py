"""The work of the HTTP service; `service_routes` puts it behind addresses."""

from __future__ import annotations

import asyncio
import base64
import io
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple, TypeVar

from fastapi import HTTPException, Request
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from metaldefect.config import Config
from metaldefect.deploy.answers import Batch, BatchVerdict, Status, Thanks, Verdict
from metaldefect.deploy.feedback import Feedback, FeedbackLog
from metaldefect.deploy.frame_store import FrameStore
from metaldefect.deploy.live import LiveDetector, Named, reads_alike
from metaldefect.deploy.prediction_log import PredictionLog
from metaldefect.deploy.runtime import Detection, Detector, overlay
from metaldefect.deploy.service_metrics import Metrics
from metaldefect.deploy.uploads import FormInMemory, open_upload
from metaldefect.errors import RejectedFileError, UserError
from metaldefect.image_files import FORMATS
from metaldefect.images import U8
from metaldefect.inspection.layout import GOOD

T = TypeVar("T")

MILLION = 1_000_000
LONGEST_ID = 200
CHALLENGER = "challenger"  # folder in the log's folder
FORM_TYPE = "multipart/form-data"
READING = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing


class ServiceSettings(Config):
    """Limits of the service.

    Attributes:
        max_bytes: largest image file; a larger one is answered with 413.
        max_batch: most images of a batch; more are answered with 413.
        max_batch_bytes: largest body of a batch, which is kept in memory; a larger one is answered with 413.
        max_pixels: largest image; a larger one is answered with 413.
        max_waiting: requests that may be in work at once; further ones are answered with 429.
        max_upload_seconds: longest time that a request may take to arrive; a slower one is answered with 408,
            because it holds a place.
    """

    max_bytes: int = 20 * MILLION
    max_batch: int = 64
    max_batch_bytes: int = 200 * MILLION
    max_pixels: int = 25 * MILLION
    max_waiting: int = 16
    max_upload_seconds: float = 30.0


class Challenger(NamedTuple):
    """A detector without a say, and where its scores go."""

    detector: Detector
    log: PredictionLog | None


class Service:
    """The work behind the routes; independent of HTTP but for the status codes of its refusals."""

    def __init__(
        self,
        live: LiveDetector,
        settings: ServiceSettings,
        log: PredictionLog | None = None,
        frames: FrameStore | None = None,
    ) -> None:
        self.live, self.settings, self.log, self.frames = live, settings, log, frames
        self.feedback = FeedbackLog(log.folder) if log else None
        self.metrics = Metrics()
        self.metrics.use(live.current.version)
        self.challenger: Challenger | None = None
        self._challenger_log: PredictionLog | None = None
        self._disk_fails = False
        self._working = 0
        self._lock = threading.Lock()

    def refusal(self, status: int, detail: str, **headers: str) -> HTTPException:
        """An answer with an error, counted."""
        self.metrics.refused.labels(str(status)).inc()
        return HTTPException(status, detail, headers or None)

    def enter(self) -> None:
        """Take a place, or refuse with 429."""
        with self._lock:
            if self._working >= self.settings.max_waiting:
                raise self.refusal(429, "too many requests at once: try again", **{"Retry-After": "1"})
            self._working += 1

    @property
    def is_busy(self) -> bool:
        """Whether the next request would be refused."""
        return self._working >= self.settings.max_waiting

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self._working -= 1

    async def arriving(self, upload: Awaitable[T]) -> T:
        """Wait for an upload, refused once it takes too long or its connection ends."""
        try:
            async with asyncio.timeout(self.settings.max_upload_seconds):
                return await upload
        except TimeoutError as error:
            longest = self.settings.max_upload_seconds
            raise self.refusal(408, f"not all of the request arrived within {longest:g} s") from error
        except ClientDisconnect as error:  # nobody reads the answer, but it is counted
            raise self.refusal(400, "the connection ended before all of the request arrived") from error

    async def own_page(self, request: Request) -> None:
        """Refuse what another site's page wants changed: any page may post, from a browser on this machine.

        Browsers say which page sends a request (`Origin`), other clients say nothing.
        """
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        is_own = origin is None or origin.lower().endswith(f"://{host.lower()}")
        if not is_own and request.method not in READING:
            raise self.refusal(403, f"a web page of {origin} may not use this service")

    async def files(self, request: Request) -> list[UploadFile]:
        """The files `images` of a form, refused as soon as it is too large."""
        total = 0

        async def receive() -> Any:
            nonlocal total
            message = await request.receive()
            total += len(message.get("body", b""))
            if total > self.settings.max_batch_bytes:
                raise self.refusal(413, f"more than {self.settings.max_batch_bytes} bytes")
            return message

        nothing = f"no file: send {FORM_TYPE} with a field `images` per image file"
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
            raise self.refusal(422, nothing)
        most = self.settings.max_batch
        try:
            async with aclosing(Request(request.scope, receive).stream()) as stream:
                parser = FormInMemory(request.headers, stream, max_files=most, max_fields=most)
                form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                raise self.refusal(413, f"more than {most} images") from error
            raise self.refusal(422, f"not a form with image files: {error.message}") from error
        files = [part for part in form.getlist("images") if not isinstance(part, str)]
        if not files:
            raise self.refusal(422, nothing)
        return files

    async def body(self, request: Request) -> bytes:
        """The request's body, refused as soon as it is too large."""
        parts, total = [], 0
        async for chunk in request.stream():
            total += len(chunk)
            if total > self.settings.max_bytes:
                raise self.refusal(413, f"more than {self.settings.max_bytes} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def judge(self, body: bytes, with_overlay: bool, name: str | None = None) -> Verdict:
        """Decode and score one image; `name` becomes the verdict's id, else it gets one."""
        started = time.perf_counter()
        detector = self.live.current  # reads and scores the image, even if another takes over meanwhile
        image = self.decode(body, detector)
        named = Named(name or uuid.uuid4().hex, image)
        try:
            detection = self.live.predict(image, detector, named.id)
        except RejectedFileError as error:
            raise self.refusal(422, str(error)) from error
        seconds = time.perf_counter() - started
        self.metrics.latency.observe(seconds)
        self.record(named, body, detection, detector)
        return Verdict(
            **answer_to(named, detector),
            score=detection.score,
            is_anomalous=detection.is_anomalous,
            milliseconds=1000 * seconds,
            overlay=overlay_png(image, detection, detector) if with_overlay else None,
        )

    def judge_batch(self, files: Sequence[UploadFile]) -> Batch:
        """Decode and score images by one detector; one that cannot be read costs the others nothing."""
        started = time.perf_counter()
        detector = self.live.current
        verdicts = [BatchVerdict(id=id_of(file)) for file in files]
        scored: deque[tuple[int, bytes]] = deque()  # numbers and files of the images that are being scored

        def images() -> Iterator[Named]:
            for number, file in enumerate(files):
                with file.file as upload:  # closed at once: it may be large, and lies in memory
                    body = upload.read()
                try:
                    image = self.decode(body, detector)
                except HTTPException as refusal:
                    verdicts[number].refused = str(refusal.detail)
                else:
                    scored.append((number, body))
                    yield Named(verdicts[number].id, image)

        for named, detection in self.live.stream(images(), detector):
            number, body = scored.popleft()
            self.record(named, body, detection, detector)
            verdict = verdicts[number]
            verdict.score, verdict.threshold = detection.score, detector.threshold
            verdict.is_anomalous = detection.is_anomalous
        milliseconds = 1000 * (time.perf_counter() - started)
        return Batch(
            precision=detector.precision,
            model_version=detector.version,
            milliseconds=milliseconds,
            verdicts=verdicts,
        )

    def record(self, named: Named, body: bytes, detection: Detection, detector: Detector) -> None:
        """Count and log a verdict, and keep the image's file where the service was told to."""
        self.metrics.decide(detection)
        try:
            if self.log is not None:
                self.log.add(named.image, detection, answer_to(named, detector))
            if self.frames is not None:
                self.frames.add(named.id, body)
        except OSError as error:  # a full disk must not stop the line
            self.metrics.unlogged.inc()
            if not self._disk_fails:
                print(f"the log of scores cannot be written: {error}", file=sys.stderr, flush=True)
            self._disk_fails = True
        else:
            self._disk_fails = False

    def challenge(self, detector: Detector) -> None:
        """Let a challenger score the same images without a say; its scores are logged beside the others.

        It takes the place of the one before.
        """
        if not reads_alike(self.live.current, detector):
            print(
                "the challenger reads images otherwise than the model in use (channels or levels), so it is"
                " not shown any while that serves",
                file=sys.stderr,
                flush=True,
            )
        if self.log is not None and self._challenger_log is None:
            self._challenger_log = PredictionLog(self.log.folder / CHALLENGER)
        self.challenger = Challenger(detector, self._challenger_log)
        self.live.shadow(detector, partial(self.compare, self.challenger))

    def dismiss(self) -> None:
        """Go on without a challenger."""
        self.challenger = None
        self.live.end_shadow()

    def compare(
        self, challenger: Challenger, named: Named, detection: Detection, other: Detection | None
    ) -> None:
        """Count whether the challenger agrees, and log its verdict, if any, under the image's id."""
        self.metrics.compare(detection, other)
        if other is not None and challenger.log is not None:
            challenger.log.add(named.image, other, answer_to(named, challenger.detector))

    def note(self, feedback: Feedback) -> Thanks:
        """Keep an operator's verdict beside the log of scores."""
        if self.feedback is None:
            raise self.refusal(409, "this service keeps no log: start it with --log FOLDER")
        self.feedback.add(feedback)
        self.metrics.feedback.labels("defective" if feedback.defective else GOOD).inc()
        return Thanks(id=feedback.id)

    def decode(self, body: bytes, detector: Detector) -> U8:
        """The image in a file's bytes, read as a detector's training images were."""
        if not body:
            raise self.refusal(422, "empty body: send the bytes of an image file")
        if len(body) > self.settings.max_bytes:
            raise self.refusal(413, f"more than {self.settings.max_bytes} bytes")
        with open_upload(body) as path:
            try:
                with Image.open(path, formats=FORMATS) as opened:
                    pixels = opened.width * opened.height
            except Image.DecompressionBombError as error:
                raise self.refusal(413, f"more than {self.settings.max_pixels} pixels") from error
            except Exception as error:
                raise self.refusal(422, "not an image file: send PNG, JPEG, BMP or TIFF") from error
            if pixels > self.settings.max_pixels:
                raise self.refusal(413, f"{pixels} pixels, more than {self.settings.max_pixels}")
            try:
                return detector.read(path)
            except UserError as error:
                reason = str(error).partition(": ")[2] or str(error)
                raise self.refusal(422, reason) from error

    def swap(self, change: Any) -> Status:
        """Reload or roll back; a refused bundle changes nothing."""
        try:
            change()
        except UserError as error:
            raise self.refusal(409, str(error)) from error
        self.metrics.swaps.inc()
        self.metrics.use(self.live.current.version)
        return Status(status="ok", model_version=self.live.current.version)

    def close(self) -> None:
        """Finish the challenger's frames and write the logs."""
        self.live.close()
        for log in (self.log, self._challenger_log):
            if log is not None:
                log.flush()


def answer_to(named: Named, detector: Detector) -> dict[str, Any]:
    """Who judged an image, by which threshold."""
    return {
        "id": named.id,
        "threshold": detector.threshold,
        "precision": detector.precision,
        "model_version": detector.version,
    }


def id_of(file: UploadFile) -> str:
    """The name of a file, by which an operator's verdict finds it; a new id without a usable one."""
    name = file.filename or ""
    return name if 0 < len(name) <= LONGEST_ID else uuid.uuid4().hex


def overlay_png(image: U8, detection: Detection, detector: Detector) -> str:
    """The heat map over the image, as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(overlay(image, detection.anomaly_map, detector.threshold)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
