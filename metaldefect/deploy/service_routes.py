"""The detector as an HTTP service (FastAPI): the addresses, and what they take and answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from metaldefect.deploy.answers import Batch, Problem, Status, Thanks, Verdict
from metaldefect.deploy.compiled import NoScoreError
from metaldefect.deploy.feedback import Feedback
from metaldefect.deploy.routes_page import routes_page
from metaldefect.deploy.service import FORM_TYPE, LONGEST_ID, Service

BINARY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
FILES = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            FORM_TYPE: {"schema": {"type": "object", "required": ["images"], "properties": {"images": FILES}}}
        },
    }
}
Responses = dict[int | str, dict[str, Any]]  # as FastAPI takes them
FOREIGN: Responses = {403: {"model": Problem, "description": "A page of another site sent it"}}
REFUSALS: Responses = FOREIGN | {
    status: {"model": Problem, "description": text}
    for status, text in (
        (400, "The connection ended before all of it arrived"),
        (408, "Too slow"),
        (413, "Too large"),
        (422, "Not a usable image"),
        (429, "Too many at once"),
        (500, "No score: the graph's numbers overflowed"),
    )
}
NO_LOG: Responses = FOREIGN | {409: {"model": Problem, "description": "No log"}}
NO_SWAP: Responses = FOREIGN | {409: {"model": Problem, "description": "Refused"}}


def create_app(service: Service) -> FastAPI:
    """The HTTP interface of a service."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(service.close)

    # FastAPI's own pages load their scripts from the internet, which a line need not have
    app = FastAPI(
        title="metaldefect",
        description="Score images of metal surfaces.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(service.own_page)],
    )
    add_errors(app)
    add_scoring(app, service)
    add_state(app, service)
    add_model_changes(app, service)
    return app


def add_errors(app: FastAPI) -> None:
    """What the service says of a request that it does not understand, and of an image without a score."""

    @app.exception_handler(RequestValidationError)
    async def explain(_request: Request, error: RequestValidationError) -> JSONResponse:
        """Say what is wrong, without repeating values that JSON cannot hold, such as NaN."""
        reasons = [{key: found[key] for key in ("type", "loc", "msg")} for found in error.errors()]
        return JSONResponse({"detail": reasons}, 422)

    @app.exception_handler(NoScoreError)
    async def admit(_request: Request, error: NoScoreError) -> JSONResponse:
        """An image without a score has no verdict, least of all a good one."""
        return JSONResponse({"detail": str(error)}, 500)


def add_scoring(app: FastAPI, service: Service) -> None:
    """Routes that score images and take operators' verdicts on them."""

    @app.post("/predict", responses=REFUSALS, openapi_extra=BINARY)
    async def predict(
        request: Request,
        overlay: bool = False,
        id: Annotated[str | None, Query(min_length=1, max_length=LONGEST_ID)] = None,
    ) -> Verdict:
        """Score the image whose file is the request's body.

        `id`, such as a part's number or a file's name, is how an operator's verdict finds the image later.
        """
        service.enter()
        try:
            body = await service.arriving(service.body(request))
            return await to_thread.run_sync(service.judge, body, overlay, id)
        finally:
            service.leave()

    @app.post("/predict/batch", responses=REFUSALS, openapi_extra=FORM)
    async def predict_batch(request: Request) -> Batch:
        """Score the image files of a form, each in a field `images`; it counts as one request.

        An image that cannot be read gets the reason instead of a score.
        """
        service.enter()
        try:
            files = await service.arriving(service.files(request))
            return await to_thread.run_sync(service.judge_batch, files)
        finally:
            service.leave()

    @app.post("/feedback", responses=NO_LOG)
    async def feedback(verdict: Feedback) -> Thanks:
        """Say whether the part on a scored image shows a defect."""
        return await to_thread.run_sync(service.note, verdict)


def add_state(app: FastAPI, service: Service) -> None:
    """Routes that say what the service offers and how it is."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Every route, as a page that needs nothing from elsewhere."""
        return HTMLResponse(routes_page(app.openapi()))

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


def add_model_changes(app: FastAPI, service: Service) -> None:
    """Routes that change the model in use."""

    @app.post("/model/reload", responses=NO_SWAP)
    async def reload() -> Status:
        """Load the bundle again, test it, and use it from the next image on."""
        return await to_thread.run_sync(service.swap, service.live.reload)

    @app.post("/model/rollback", responses=NO_SWAP)
    async def rollback() -> Status:
        """Use the previous model again."""
        return await to_thread.run_sync(service.swap, service.live.rollback)
