"""The records that every dataset adapter yields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Box:
    """A labelled box in pixels of the source image, with inclusive corners as in PASCAL VOC."""

    label: str
    xmin: int
    ymin: int
    xmax: int
    ymax: int


@dataclass(frozen=True)
class RunLengths:
    """A mask in Severstal's encoding: 1-based (start, length) pairs over the column-major pixels.

    `size` is the height and width of the image that it was drawn for; None if nobody says.
    """

    runs: tuple[tuple[int, int], ...]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class RawSample:
    """One image as its publisher describes it.

    Attributes:
        path: image file.
        source: name of the dataset.
        source_label: the dataset's name for the class.
        source_split: the publisher's split (`train`, `validation`, `test`), None if there is none.
        mask: mask file or run lengths, None if the mask is unknown.
        boxes: boxes, whose labels may differ from `source_label`.
        is_normal: whether the image shows no defect.
        scene: what the publisher says that several images show, such as a part's number; None: unknown.
        size: height and width for which the annotations were drawn; None: unknown.
    """

    path: Path
    source: str
    source_label: str
    source_split: str | None = None
    mask: Path | RunLengths | None = None
    boxes: tuple[Box, ...] = ()
    is_normal: bool = False
    scene: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Rejected:
    """A rejected file; `path` is `<source>/<path in the dataset>` safe to print."""

    path: str
    reason: str
