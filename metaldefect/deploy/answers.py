"""What the service answers, as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


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


class BatchVerdict(BaseModel):
    """Answer to one image of a batch; its id is the file's name, or a new one.

    An image that was refused has the reason in `refused` and no score.
    """

    id: str
    score: float | None = None
    threshold: float | None = None
    is_anomalous: bool | None = None
    refused: str | None = None


class Batch(BaseModel):
    """Answer to a batch: one verdict per image, in the order of the images."""

    precision: str
    model_version: str
    milliseconds: float
    verdicts: list[BatchVerdict]


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
