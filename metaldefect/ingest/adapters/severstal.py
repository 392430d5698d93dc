"""Severstal steel defect detection (Kaggle, 2019): run-length masks in `train.csv`."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample, RejectedFileError, RunLengths
from metaldefect.inspection.layout import GOOD


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
    masks = read_masks(files)
    paths = files.images(folder)
    for name in sorted(masks.keys() - {path.name for path in paths}):
        files.reject(table, f"names an image that is not there: {name}")
    for path in paths:
        found = masks.get(path.name, {})
        runs = tuple(run for label in sorted(found) for run in found[label])
        yield RawSample(
            path=path,
            source=files.source,
            source_label="+".join(sorted(found)) or GOOD,
            mask=RunLengths(runs),
            is_normal=not found,
        )


def read_masks(files: DatasetFiles) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """Read run lengths by image name and class; skips rows without pixels, which mean no defect."""
    table = files.root / "train.csv"
    masks: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(dict)
    for number, row in read_rows(files, table):
        try:
            if "ImageId_ClassId" in row:
                name, label = row["ImageId_ClassId"].rsplit("_", 1)
            else:
                name, label = row["ImageId"], row["ClassId"]
            if encoded := (row["EncodedPixels"] or "").strip():
                masks[name][label] = parse_runs(encoded)
        except (KeyError, ValueError, AttributeError, RejectedFileError) as error:
            files.reject(table, f"line {number}: {type(error).__name__} {error}")
    return masks


def read_rows(files: DatasetFiles, table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield numbered rows of the table; rejects the table and stops where it is not valid CSV or text."""
    try:
        yield from enumerate(csv.DictReader(io.StringIO(files.read_text(table))), start=2)
    except (csv.Error, RejectedFileError) as error:
        files.reject(table, str(error))


def parse_runs(encoded: str) -> list[tuple[int, int]]:
    """Parse `start length start length ...` into pairs; `ValueError` for an odd count or non-numbers."""
    numbers = [int(word) for word in encoded.split()]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
