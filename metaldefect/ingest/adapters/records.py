"""The one record type that every dataset adapter yields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metaldefect.errors import UserError


@dataclass(frozen=True)
class Box:
    """A labelled box in pixels of the source image, corners inclusive as PASCAL VOC writes them."""

    label: str
    xmin: int
    ymin: int
    xmax: int
    ymax: int


@dataclass(frozen=True)
class RunLengths:
    """A mask as 1-based `start length` pairs over the column-major pixels, the Severstal encoding."""

    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RawSample:
    """One image as its publisher describes it.

    Attributes:
        path: image file.
        source: name of the dataset.
        source_label: class in the dataset's own words.
        source_split: the publisher's split (`train`, `validation`, `test`), None where there is none.
        mask: mask file, run lengths, or None where the mask is unknown.
        boxes: boxes with their own labels, which may differ from `source_label`.
        is_normal: the image shows no defect.
    """

    path: Path
    source: str
    source_label: str
    source_split: str | None = None
    mask: Path | RunLengths | None = None
    boxes: tuple[Box, ...] = ()
    is_normal: bool = False


@dataclass(frozen=True)
class Rejected:
    """A file that was left out: `path` is `<source>/<path in the dataset>`, printable ASCII."""

    path: str
    reason: str


class RejectedFileError(UserError):
    """A file that may not enter the pipeline; the message is the reason alone."""
