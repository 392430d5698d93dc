"""Severstal steel defect detection (Kaggle, 2019): run-length masks in `train.csv`."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample, RunLengths
from metaldefect.inspection.layout import GOOD


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return (root / "train.csv").is_file() and (root / "train_images").is_dir()


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `train_images/<id>.jpg` with masks from `train.csv`, in either of its two column layouts.

    Labels are class numbers (`1` to `4`), joined by `+` if an image shows several defects, or `good`.
    """
    table = files.root / "train.csv"
    if not table.is_file():
        raise UserError(f"{table} does not exist: expected the published layout of Severstal")
    folder = files.root / "train_images"
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: expected the published layout of Severstal")
    table_of = read_masks(files)
    paths = files.images(folder)
    for name in sorted(table_of.runs.keys() - {path.name for path in paths}):
        files.reject(table, f"names an image that is not there: {printable(name)}")
    for path in paths:
        found = table_of.runs.get(path.name, {})
        if path.name in table_of.broken:
            files.reject(path, "its row in train.csv is broken, so its defects are unknown")
        elif not found and table_of.has_unknown_rows:
            files.reject(path, "no row in train.csv, but rows there are unreadable: one may be its own")
        else:
            yield RawSample(
                path=path,
                source=files.source,
                source_label="+".join(sorted(found)) or GOOD,
                mask=RunLengths(tuple(run for label in sorted(found) for run in found[label])),
                is_normal=not found,
            )


@dataclass
class Annotations:
    """What `train.csv` says, and what it fails to say.

    Attributes:
        runs: run lengths by image name and class.
        broken: names of images with a broken row.
        has_unknown_rows: whether a row, or the table, is too broken to show which image it names.
    """

    runs: dict[str, dict[str, list[tuple[int, int]]]] = field(default_factory=lambda: defaultdict(dict))
    broken: set[str] = field(default_factory=set)
    has_unknown_rows: bool = False


def read_masks(files: DatasetFiles) -> Annotations:
    """Read `train.csv`; rows without pixels mean no defect. Broken rows are rejected and recorded."""
    table = files.root / "train.csv"
    found = Annotations()
    for number, row in read_rows(files, table, found):
        name: str | None = None
        try:
            if "ImageId_ClassId" in row:
                name, label = (row["ImageId_ClassId"] or "").rsplit("_", 1)
            else:
                name, label = row["ImageId"] or "", row["ClassId"] or ""
            encoded = row["EncodedPixels"]
            if not name or not label or encoded is None:
                raise ValueError("too few columns")
            if encoded.strip():
                found.runs[name][label] = parse_runs(encoded)
        except (KeyError, ValueError, AttributeError) as error:
            files.reject(table, f"line {number}: {type(error).__name__} {printable(str(error))}")
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
