"""Images of a run as WebP inside the page: drawn beside training ones, insertions with masks, figures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from metaldefect.artifacts import read_json
from metaldefect.errors import UserError
from metaldefect.figures import mask_overlay
from metaldefect.images import U8, read_own
from metaldefect.ingest.loading import split_rows
from metaldefect.synthesis.insertion_set import CATEGORY, read_insertions

PHOTOGRAPH = 384  # longest side of an image in the page
FIGURE = 1400  # largest width of a figure in the page
QUALITY = 82
EDGE_CHART = Path("docs/images/edge.png")
EDGE_RESULT = Path("benchmarks/results/edge.json")
PER_CLASS = 3
INSERTIONS_PER_CLASS = 2


@dataclass(frozen=True)
class Picture:
    """An image as a data URI with its size in pixels and its text alternative."""

    source: str
    width: int
    height: int
    text: str


@dataclass(frozen=True)
class ClassPictures:
    """Training images and drawn images of a class."""

    label: str
    real: list[Picture]
    drawn: list[Picture]


@dataclass(frozen=True)
class InsertionPictures:
    """A normal image, the mask of the defect inserted into it, and the result."""

    label: str
    canvas: Picture
    mask: Picture
    result: Picture


def webp(image: Image.Image, text: str, longest: int = PHOTOGRAPH) -> Picture:
    """An image as WebP, shrunk to at most `longest` pixels on its longer side."""
    small = image.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=QUALITY, method=4)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/webp;base64,{data}", *small.size, text)


def array_picture(image: NDArray[np.uint8], text: str, scale: float = 1.0) -> Picture:
    """`webp` of `uint8 [H, W]` or `[H, W, 3]`, of at most `scale` times the largest size."""
    return webp(Image.fromarray(image), text, round(scale * PHOTOGRAPH))


def figure_picture(path: Path, text: str, scale: float = 1.0) -> Picture:
    """`webp` of a figure's PNG file, of at most `scale` times the largest size.

    Raises:
        UserError: the file is not a readable image.
    """
    try:
        with Image.open(path) as image:
            return webp(image.convert("RGB"), text, round(scale * FIGURE))
    except OSError as error:
        raise UserError(f"{path} is not a readable PNG: {error}") from error


def edge_picture(root: Path, scale: float = 1.0) -> Picture | None:
    """The chart of the edge benchmark, shrunk by `scale`; its text names the machine, commit and day.

    None if the project has no such chart, or no result that says where it was measured.

    Raises:
        UserError: the chart or the result cannot be read.
    """
    chart, result = root / EDGE_CHART, root / EDGE_RESULT
    if not chart.is_file() or not result.is_file():
        return None
    content = read_json(result)
    machine, commit, date = (str(content.get(key, "")) for key in ("machine", "commit", "date"))
    if not machine or not commit:
        return None
    return figure_picture(chart, f"Measured on {machine}, commit {commit[:7]}, {date[:10]}", scale)


def class_pictures(
    merged: Path, synthetic: Path, count: int = PER_CLASS, scale: float = 1.0
) -> list[ClassPictures]:
    """The first training images and the first drawn images of each drawn class.

    Args:
        merged: folder of the merged dataset.
        synthetic: folder of the drawn images.
        count: images of each kind per class.
        scale: of the largest size of a picture, from 0 to 1.
    """
    if not (synthetic / "samples.parquet").is_file():
        return []
    train, drawn = split_rows(merged, "train"), pd.read_parquet(synthetic / "samples.parquet")
    found = []
    for label in dict.fromkeys(drawn["label"]):
        pictures = []
        for kind, folder, table in (("training image", merged, train), ("drawn image", synthetic, drawn)):
            paths = table.loc[table["label"] == label, "path"].head(count)
            images: list[U8] = [read_own(folder / path) for path in paths]
            pictures.append([array_picture(image, f"{label}, {kind}", scale) for image in images])
        found.append(ClassPictures(str(label), *pictures))
    return found


def insertion_pictures(
    synthetic: Path, count: int = INSERTIONS_PER_CLASS, scale: float = 1.0
) -> list[InsertionPictures]:
    """The first visible insertions of each class: before, with the exact mask in red, after.

    Args:
        synthetic: folder of the drawn images.
        count: insertions per class.
        scale: of the largest size of a picture, from 0 to 1.
    """
    if not (synthetic / CATEGORY).is_dir():
        return []
    by_class: dict[str, list[InsertionPictures]] = {}
    for item in read_insertions(synthetic):
        known = by_class.setdefault(item.label, [])
        if len(known) < count:
            shown = mask_overlay(item.image, item.mask)
            known.append(
                InsertionPictures(
                    item.label,
                    array_picture(item.canvas, f"{item.label}: the good image", scale),
                    array_picture(shown, f"{item.label}: the exact mask in red", scale),
                    array_picture(item.image, f"{item.label}: the inserted defect", scale),
                )
            )
    return [picture for pictures in by_class.values() for picture in pictures]
