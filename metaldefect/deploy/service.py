"""The detector as an HTTP service (FastAPI)."""

from __future__ import annotations

import base64
import io
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from anyio import to_thread
from fastapi import FastAPI, HTTPException, Query, Request, Response
from PIL import Image
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic import BaseModel

from metaldefect.config import Config
from metaldefect.deploy.feedback import Feedback, FeedbackLog
from metaldefect.deploy.live import LiveDetector
from metaldefect.deploy.prediction_log import PredictionLog
from metaldefect.deploy.runtime import Detection, Detector, overlay
from metaldefect.errors import UserError
from metaldefect.images import U8
from metaldefect.inspection.layout import GOOD

MILLION = 1_000_000


class ServiceSettings(Config):
    """Limits of the service.

    Attributes:
        max_bytes: largest request body; a larger one is answered with 413.
        max_pixels: largest image; a larger one is answered with 413.
        max_waiting: requests that may be in work at once; further ones are answered with 429.
    """

    max_bytes: int = 20 * MILLION
    max_pixels: int = 25 * MILLION
    max_waiting: int = 16


class Verdict(BaseModel):
    """Answer to one image; `overlay` is a PNG in base64, if it was asked for."""

    id: str
    score: float
    threshold: float
    is_anomalous: bool
    precision: str
    model_version: str
    milliseconds: float
    overlay: str | None = None


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str | list[dict[str, Any]]


class Status(BaseModel):
    """State of the service."""

    status: str
    model_version: str


class Thanks(BaseModel):
    """Answer to an operator's verdict."""

    id: str


class Metrics:
    """Prometheus metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        keep: dict[str, Any] = {"registry": self.registry}
        self.latency = Histogram(
            "metaldefect_latency_seconds", "Seconds from the body's last byte to the verdict", **keep
        )
        scores = (-0.2, -0.1, 0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 2, 5)
        self.scores = Histogram("metaldefect_score", "Scores of images", buckets=scores, **keep)
        self.decisions = Counter("metaldefect_decisions", "Verdicts", ["verdict"], **keep)
        self.feedback = Counter("metaldefect_feedback", "Operators' verdicts", ["verdict"], **keep)
        self.refused = Counter("metaldefect_refused", "Refused requests", ["status"], **keep)
        self.swaps = Counter("metaldefect_swaps", "Reloads and rollbacks", **keep)
        self.shadow = Counter("metaldefect_shadow", "Frames a challenger scored too", ["decisions"], **keep)
        self.model = Gauge("metaldefect_model_info", "The model in use", ["version"], **keep)

    def use(self, version: str) -> None:
        """Say which model is in use."""
        self.model.clear()
        self.model.labels(version).set(1)

    def compare(self, champion: Detection, challenger: Detection) -> None:
        """Count whether a challenger agrees."""
        same = champion.is_anomalous == challenger.is_anomalous
        self.shadow.labels("equal" if same else "different").inc()


class Service:
    """The work behind the routes; independent of HTTP but for the status codes of its refusals."""

    def __init__(
        self, live: LiveDetector, settings: ServiceSettings, log: PredictionLog | None = None
    ) -> None:
        self.live, self.settings, self.log = live, settings, log
        self.feedback = FeedbackLog(log.folder) if log else None
        self.metrics = Metrics()
        self.metrics.use(live.current.version)
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
        image = self.decode(body)
        detection, detector = self.live.predict(image)
        seconds = time.perf_counter() - started
        self.metrics.latency.observe(seconds)
        self.metrics.scores.observe(detection.score)
        self.metrics.decisions.labels("anomalous" if detection.is_anomalous else "normal").inc()
        answer = {
            "id": name or uuid.uuid4().hex,
            "threshold": detector.threshold,
            "precision": detector.precision,
            "model_version": detector.version,
        }
        if self.log is not None:
            self.log.add(image, detection, answer)
        return Verdict(
            **answer,
            score=detection.score,
            is_anomalous=detection.is_anomalous,
            milliseconds=1000 * seconds,
            overlay=overlay_png(image, detection, detector) if with_overlay else None,
        )

    def note(self, feedback: Feedback) -> Thanks:
        """Keep an operator's verdict beside the log of scores."""
        if self.feedback is None:
            raise self.refusal(409, "this service keeps no log: start it with --log FOLDER")
        self.feedback.add(feedback)
        self.metrics.feedback.labels("defective" if feedback.defective else GOOD).inc()
        return Thanks(id=feedback.id)

    def decode(self, body: bytes) -> U8:
        """The image in a body, by the rules of every door."""
        if not body:
            raise self.refusal(422, "empty body: send the bytes of an image file")
        with tempfile.NamedTemporaryFile(suffix=".image") as file:
            file.write(body)
            file.flush()
            try:
                with Image.open(file.name) as opened:
                    pixels = opened.width * opened.height
            except Exception as error:
                raise self.refusal(422, "not an image file: send PNG, JPEG, BMP or TIFF") from error
            if pixels > self.settings.max_pixels:
                raise self.refusal(413, f"{pixels} pixels, more than {self.settings.max_pixels}")
            try:
                return self.live.current.read(file.name)
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
        """Finish the challenger's frames and write the log."""
        self.live.close()
        if self.log is not None:
            self.log.flush()


def overlay_png(image: U8, detection: Detection, detector: Detector) -> str:
    """The heat map over the image, as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(overlay(image, detection.anomaly_map, detector.threshold)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


BINARY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in ((413, "Too large"), (422, "Not a usable image"), (429, "Too many at once"))
}


def create_app(service: Service) -> FastAPI:
    """The HTTP interface of a service."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(service.close)

    app = FastAPI(title="metaldefect", description="Score images of metal surfaces.", lifespan=lifespan)

    @app.post("/predict", responses=REFUSALS, openapi_extra=BINARY)
    async def predict(
        request: Request,
        overlay: bool = False,
        id: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    ) -> Verdict:
        """Score the image whose file is the request's body.

        `id`, such as a part's number or a file's name, is how an operator's verdict finds the image later.
        """
        service.enter()
        try:
            body = await service.body(request)
            return await to_thread.run_sync(service.judge, body, overlay, id)
        finally:
            service.leave()

    no_log: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "No log"}}

    @app.post("/feedback", responses=no_log)
    async def feedback(verdict: Feedback) -> Thanks:
        """Say whether the part on a scored image shows a defect."""
        return await to_thread.run_sync(service.note, verdict)

    @app.get("/health")
    async def health() -> Status:
        """The process lives."""
        return Status(status="ok", model_version=service.live.current.version)

    @app.get("/ready", responses={503: {"model": Problem, "description": "Busy"}})
    async def ready() -> Status:
        """The service takes another image now."""
        if service.is_busy:
            raise HTTPException(503, "as many requests in work as allowed")
        return Status(status="ok", model_version=service.live.current.version)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    swap_refusal: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "Refused"}}

    @app.post("/model/reload", responses=swap_refusal)
    async def reload() -> Status:
        """Load the bundle again, test it, and use it from the next image on."""
        return await to_thread.run_sync(service.swap, service.live.reload)

    @app.post("/model/rollback", responses=swap_refusal)
    async def rollback() -> Status:
        """Use the previous model again."""
        return await to_thread.run_sync(service.swap, service.live.rollback)

    return app
