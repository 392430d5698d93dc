"""Severstal steel defect detection (Kaggle, 2019): run-length masks in `train.csv`."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample, RunLengths
from metaldefect.inspection.layout import GOOD

CLASSES = frozenset("1234")
IMAGES = "train_images"
UNLABELLED = "test_images"


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return (root / "train.csv").is_file() and (root / IMAGES).is_dir()


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `train_images/<id>.jpg` with masks from `train.csv`, in either of its two column layouts.

    Labels are class numbers (`1` to `4`), joined by `+` if an image shows several defects, or `good`. The
    newer layout (`ImageId,ClassId`) has rows for defects only, so that an image without a row is good. The
    older one (`ImageId_ClassId`) has a row per image and class, so that an image without one is refused.
    """
    table = files.root / "train.csv"
    if not table.is_file():
        raise UserError(f"{table} does not exist: expected the published layout of Severstal")
    folder = files.root / IMAGES
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: expected the published layout of Severstal")
    annotations = read_masks(files)
    paths = files.images(folder)
    names = {path.name for path in paths}
    for name in sorted(annotations.named() - names):
        files.reject(table, f"names an image that is not there: {name}")
    if not annotations.has_unknown_rows and not names & annotations.named():
        files.reject(
            table, f"names none of the {len(names)} images, so that it shows of none that it is good"
        )
        annotations.has_unknown_rows = True
    for path in paths:
        try:
            annotations.check(path.name)
        except RejectedFileError as error:
            files.reject(path, str(error))
            continue
        found = annotations.runs.get(path.name, {})
        yield RawSample(
            path=path,
            source=files.source,
            source_label="+".join(sorted(found)) or GOOD,
            mask=RunLengths(tuple(run for label in sorted(found) for run in found[label])),
            is_normal=not found,
        )
    if (files.root / UNLABELLED).is_dir():
        files.note(files.root / UNLABELLED, "images without labels: left out")


@dataclass
class Annotations:
    """What `train.csv` says, and what it fails to say.

    Attributes:
        labels: classes of which an image has a row, by image name.
        runs: run lengths by image name and class.
        broken: names of images with a broken row.
        has_unknown_rows: whether a row, or the table, is too broken to show which image it names.
        lists_every_class: whether the table has a row per image and class.
    """

    labels: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    runs: dict[str, dict[str, list[tuple[int, int]]]] = field(default_factory=lambda: defaultdict(dict))
    broken: set[str] = field(default_factory=set)
    has_unknown_rows: bool = False
    lists_every_class: bool = False

    def named(self) -> set[str]:
        """The images that rows name."""
        return self.broken | set(self.labels)

    def check(self, name: str) -> None:
        """Raise `RejectedFileError` if the table does not show which defects an image has."""
        if name in self.broken:
            raise RejectedFileError("its row in train.csv is broken, so its defects are unknown")
        listed = self.labels.get(name, set())
        if not listed and self.has_unknown_rows:
            raise RejectedFileError(
                "no row in train.csv, but its rows are unreadable or name other images: one may be its own"
            )
        missing = sorted(CLASSES - listed) if self.lists_every_class else []
        if missing:
            raise RejectedFileError(
                f"no row in train.csv of class {', '.join(missing)}, although the table has a row per class"
            )


def read_masks(files: DatasetFiles) -> Annotations:
    """Read `train.csv`; rows without pixels mean no defect. Broken rows are rejected and recorded."""
    table = files.root / "train.csv"
    found = Annotations()
    for number, row in read_rows(files, table, found):
        name: str | None = None
        try:
            if "ImageId_ClassId" in row:
                found.lists_every_class = True
                name, label = (row["ImageId_ClassId"] or "").rsplit("_", 1)
            else:
                name, label = row["ImageId"] or "", row["ClassId"] or ""
            encoded = row["EncodedPixels"]
            if not name or not label or encoded is None:
                raise ValueError("too few columns")
            if label in found.labels[name]:
                raise ValueError(f"a second row of {name} and class {label}")
            found.labels[name].add(label)
            if encoded.strip():
                found.runs[name][label] = parse_runs(encoded)
        except (KeyError, ValueError, AttributeError) as error:
            files.reject(table, f"line {number}: {type(error).__name__} {error}")
            if name:
                found.broken.add(name)
            else:
                found.has_unknown_rows = True
    return found


def read_rows(
    files: DatasetFiles, table: Path, found: Annotations
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield numbered rows of the table; rejects the table and stops where it is not valid CSV or text."""
    try:
        yield from enumerate(csv.DictReader(io.StringIO(files.read_text(table))), start=2)
    except (csv.Error, RejectedFileError) as error:
        files.reject(table, str(error))
        found.has_unknown_rows = True


def parse_runs(encoded: str) -> list[tuple[int, int]]:
    """Parse `start length start length ...` into pairs; `ValueError` for an odd count or non-numbers."""
    numbers = [int(word) for word in encoded.split()]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
