"""YOLO: one text file per image, one line per object, coordinates as shares of width and height.

Format: https://docs.ultralytics.com/datasets/detect/ (boxes) and .../segment/ (polygons).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

from metaldefect.artifacts import atomic_file
from metaldefect.synthesis.formats.records import (
    DefectRecord,
    ImageRecord,
    classes_of,
    mask_of,
    polygons_of,
)

Lines = Callable[[ImageRecord, DefectRecord], Iterator[Sequence[float]]]


def write_yolo_boxes(root: Path, images: Sequence[ImageRecord]) -> None:
    """Write `labels/*.txt` with lines `class x y width height` (x, y: centre), and `data.yaml`."""
    write_labels(root, images, box_line)


def write_yolo_polygons(root: Path, images: Sequence[ImageRecord]) -> None:
    """Write `labels/*.txt` with lines `class x1 y1 x2 y2 ...`, one per connected part, and `data.yaml`."""
    write_labels(root, images, polygon_lines)


def box_line(image: ImageRecord, defect: DefectRecord) -> Iterator[Sequence[float]]:
    """Centre, width and height of a defect's box, as shares of the image's."""
    x, y, width, height = defect.box
    yield (
        (x + width / 2) / image.width,
        (y + height / 2) / image.height,
        width / image.width,
        height / image.height,
    )


def polygon_lines(image: ImageRecord, defect: DefectRecord) -> Iterator[Sequence[float]]:
    """Outline of each connected part of a defect, as shares of the image's width and height."""
    for polygon in polygons_of(mask_of(defect.runs, image.height, image.width)):
        yield (polygon / (image.width, image.height)).clip(0.0, 1.0).ravel().tolist()


def write_labels(root: Path, images: Sequence[ImageRecord], lines: Lines) -> None:
    """Write the label files, the lists of images `train.txt` and `val.txt`, and `data.yaml`."""
    classes = classes_of(images)
    for image in images:
        rows = [
            " ".join([str(classes.index(defect.label)), *(f"{share:.6f}" for share in line)])
            for defect in image.defects
            for line in lines(image, defect)
        ]
        write_text(root / "labels" / f"{Path(image.image).stem}.txt", rows)
    for split in ("train", "val"):
        chosen = [f"./{image.image}" for image in images if image.split == split]
        write_text(root / f"{split}.txt", chosen)
    # Without `path`, Ultralytics looks beside data.yaml; "." would be the working directory
    content = {"train": "train.txt", "val": "val.txt", "names": dict(enumerate(classes))}
    write_text(root / "data.yaml", [yaml.safe_dump(content, sort_keys=False).rstrip()])


def write_text(path: Path, lines: Sequence[str]) -> None:
    """Write lines of text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
