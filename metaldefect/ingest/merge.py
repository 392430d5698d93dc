"""Merge raw datasets into one sample table, recording why any file was left out."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from metaldefect.artifacts import atomic_directory, atomic_file
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.images import Channels, as_channels, resize, write_png
from metaldefect.ingest.adapters import Rejected
from metaldefect.ingest.adapters.records import Box
from metaldefect.ingest.examine import DatasetSpec, Examined, examine_dataset
from metaldefect.ingest.expectations import ValidationReport, validate_merged, write
from metaldefect.ingest.groups import Pair, hash_pixels, perceptual_hash
from metaldefect.ingest.inspection import InspectionCounts, build_inspection
from metaldefect.ingest.levels import write_dataset_levels
from metaldefect.ingest.parallel import map_threads
from metaldefect.ingest.placing import (
    Placed,
    class_notes,
    photographs_of_several_classes,
    place_images,
    window_notes,
    write_window_sides,
)
from metaldefect.ingest.reading import read_image, read_known_mask
from metaldefect.ingest.samples import TABLE_NAME, counts_of, write_image_file, write_table
from metaldefect.ingest.scenes import find_scenes
from metaldefect.ingest.shortcut import Tone, grey_statistics, source_shortcut, source_tones
from metaldefect.ingest.splits import across_splits, sampling_weights

NEAR_DUPLICATES = "near_duplicates.csv"
PAIR_COLUMNS = ["first", "second", "symmetry", "distance", "correlation", "detail", "same_photograph"]


@dataclass(frozen=True)
class InspectionSpec:
    """Which dataset the detector uses.

    Attributes:
        adapter: a name in `ADAPTERS`.
        root: the dataset's folder.
        levels: as in `DatasetSpec`.
        scenes: as in `DatasetSpec`.
        labels: other names for some of the dataset's labels; `good` means no defect.
        ignore: labels whose images are skipped.
    """

    adapter: str
    root: Path
    levels: Levels | None = None
    scenes: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    ignore: Sequence[str] = ()


@dataclass(frozen=True)
class MergeOptions:
    """How to merge.

    Attributes:
        classes: the allowed labels.
        image_size: side of the square that images are resized to, in pixels.
        channels: 1 writes grey images, 3 those of three channels.
        validation: expected share of the scenes in the validation split, 0 to 1.
        test: the same for the test split.
        seed: determines the split.
        duplicates: `drop` keeps only the first image of each group (one photograph).
        normalise_source: give every source the same mean brightness and contrast.
        max_rejected: the merge fails if more files are rejected.
        expected_counts: required number of images per class; None accepts any.
    """

    classes: Sequence[str]
    image_size: int
    validation: float
    test: float
    seed: int
    duplicates: Literal["keep", "drop"] = "keep"
    normalise_source: bool = False
    max_rejected: int = 0
    expected_counts: dict[str, int] | None = None
    channels: Channels = 1


@dataclass(frozen=True)
class MergeResult:
    """The result of a merge.

    Attributes:
        table: the sample table.
        pairs: near-duplicates: two image files and how they match.
        rejected: the files left out.
        report: the results of validating the merged dataset.
        inspection: image counts of the detector's dataset.
        summary: reproducible counts and measures for the metrics file.
    """

    table: pd.DataFrame
    pairs: list[tuple[Path, Path, Pair]]
    rejected: list[Rejected]
    report: ValidationReport
    inspection: InspectionCounts
    summary: dict[str, Any]


class TooManyRejectedError(UserError):
    """More files were rejected than `max_rejected` allows; the message lists the first of them."""


def merge_datasets(
    datasets: Sequence[DatasetSpec],
    inspection: InspectionSpec,
    output: Path,
    reports: Path,
    options: MergeOptions,
) -> MergeResult:
    """Write the merged dataset to `output`, atomically.

    Writes `images/<label>/<source>_<stem>.png` (8-bit grey or RGB, square), `masks/<label>/` ({0, 255}, if
    known), `samples.parquet`, `rejected.csv`, `near_duplicates.csv`, `levels.json`, and
    the detector's images in MVTec AD layout under `inspection/`. The same inputs give the same bytes.
    Photographs with small defects give one image per defect (see `ingest.windows`), and the usual side of
    these windows by class in `windows.json`.

    Args:
        datasets: the datasets to merge; their order decides which image of a near-duplicate group is first.
        inspection: the detector's dataset.
        output: replaced as a whole.
        reports: receives `rejected.csv` and the validation report, even if the merge fails.
        options: see `MergeOptions`.

    Raises:
        UserError: a dataset or part of its published layout is missing; a label is neither mapped nor
            ignored; too many files are rejected; a class has too few images; or the merged dataset fails
            its validation.
    """
    check_sources(datasets)
    examined, rejected, notes = examine_all(datasets, options)
    with atomic_directory(output) as folder:
        refuse(rejected, options, reports)
        if not examined:
            raise UserError(
                "no image is left to merge: check the datasets' labels, splits and ignored labels"
            )
        pairs, links, alike = find_scenes(datasets, examined)
        placed, moved = place_images(
            examined,
            pairs,
            links,
            options.duplicates == "drop",
            options.seed,
            (options.validation, options.test),
        )
        trained_on = {place.item.source_sha256 for place in placed if place.split != "test"}
        counts, refused = write_inspection(
            inspection, folder, options.seed, trained_on, source_of(inspection, datasets)
        )
        counted = {file.path for file in rejected}
        rejected += [file for file in refused if file.path not in counted]
        refuse(rejected, options, reports)
        table, statistics = write_images(placed, folder, options)
        write_tables(folder, table, rejected, pairs, examined, placed)
        report = validate_merged(
            table, folder, options.classes, options.image_size, options.expected_counts, options.channels
        )
        write(report, reports)
        report.raise_if_failed()
    mixed = photographs_of_several_classes(examined, pairs)
    notes += [*alike, *class_notes(mixed, options.duplicates == "drop"), *window_notes(placed)]
    summary = summarise(table, counts, report) | {
        **summarise_scenes(examined, table, pairs, placed),
        "groups_of_several_classes": len(mixed),
        "moved_scenes": len(moved),
        "notes": notes,
        "rejected": len(rejected),
        "source_shortcut": source_shortcut(table, statistics),
    }
    paths = [item.raw.path for item in examined]
    found = [(paths[pair.first], paths[pair.second], pair) for pair in pairs]
    return MergeResult(table, found, rejected, report, counts, summary)


def examine_all(
    datasets: Sequence[DatasetSpec], options: MergeOptions
) -> tuple[list[Examined], list[Rejected], list[str]]:
    """The usable images of all datasets, the files left out, and notes on files used in a surprising way."""
    examined: list[Examined] = []
    rejected: list[Rejected] = []
    notes: list[str] = []
    for spec in datasets:
        found, files = examine_dataset(spec, options.classes, options.image_size)
        examined += found
        rejected += files.rejected
        notes += [f"{note.path}: {note.reason}" for note in files.notes]
    return examined, rejected, notes


def refuse(rejected: Sequence[Rejected], options: MergeOptions, reports: Path) -> None:
    """Write the rejected files to `reports`; raise `TooManyRejectedError` if they are too many."""
    path = reports / "rejected.csv"
    write_rejected(path, rejected)
    check_rejected(rejected, options.max_rejected, path)


def write_inspection(
    inspection: InspectionSpec, folder: Path, seed: int, trained_on: Set[str], source: str | None
) -> tuple[InspectionCounts, list[Rejected]]:
    """Write the detector's dataset into the merged folder; arguments and result as in `build_inspection`."""
    return build_inspection(
        inspection.adapter,
        inspection.root,
        folder / "inspection",
        seed,
        trained_on,
        inspection.levels,
        inspection.scenes,
        labels=inspection.labels,
        ignore=inspection.ignore,
        source=source,
    )


def write_tables(
    folder: Path,
    table: pd.DataFrame,
    rejected: Sequence[Rejected],
    pairs: Sequence[Pair],
    examined: Sequence[Examined],
    placed: Sequence[Placed],
) -> None:
    """Write what lies beside the images: samples, rejected files, near-duplicates, windows' sides, levels."""
    write_table(folder / TABLE_NAME, table)
    write_rejected(folder / "rejected.csv", rejected)
    write_pairs(folder / NEAR_DUPLICATES, pairs, examined, table)
    write_window_sides(folder, placed)
    write_dataset_levels(
        folder, {item.raw.source: item.levels for item in examined if item.levels is not None}
    )


def check_sources(datasets: Sequence[DatasetSpec]) -> None:
    """Raise `UserError` if two datasets share a name, because their files would overwrite each other."""
    for name, count in Counter(spec.source for spec in datasets).items():
        if count > 1:
            raise UserError(f"{count} datasets are called {name!r}: give each its own `name`")


def source_of(inspection: InspectionSpec, datasets: Sequence[DatasetSpec]) -> str | None:
    """The name of the merged dataset that is the detector's too; None if there is none.

    A file that both refuse has one name, so that it counts once.
    """
    for spec in datasets:
        if (spec.adapter, spec.root.resolve()) == (inspection.adapter, inspection.root.resolve()):
            return spec.source
    return None


def write_images(
    placed: Sequence[Placed], folder: Path, options: MergeOptions
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write images and masks; return the sample table and the grey statistics of its rows."""
    items = [place.item for place in placed]
    sources = [item.raw.source for item in items]
    tones: dict[str, Tone] = {}
    if options.normalise_source:
        in_train = [place.split == "train" for place in placed]
        tones = source_tones(sources, [item.statistics for item in items], in_train)

    def write_one(place: Placed) -> tuple[dict[str, Any], dict[str, float]]:
        tone = tones.get(place.item.raw.source)
        return write_image(place, folder, options.image_size, tone, options.channels)

    rows, statistics = zip(*map_threads(write_one, placed, "write images"), strict=True)
    table = pd.DataFrame(rows)
    table["weight"] = sampling_weights([item.label for item in items], sources)
    return table, pd.DataFrame(statistics)


def write_image(
    place: Placed, folder: Path, side: int, tone: Tone | None, channels: Channels
) -> tuple[dict[str, Any], dict[str, float]]:
    """Write one image and its mask; return its row of the sample table and its grey statistics."""
    item, raw = place.item, place.item.raw
    whole, window = read_image(raw, item.levels, colour=channels == 3), place.window
    image = resize(window.cut(whole) if window else whole, side)
    if tone:
        image = tone.apply(image)
    grey = as_channels(image, 1)
    path = f"images/{place.name}.png"
    height, width = item.shape
    mask_path = None
    mask = read_known_mask(raw, (height, width))
    boxes = window.boxes_inside(raw.boxes) if window else raw.boxes
    if mask is not None:
        mask_path = f"masks/{place.name}.png"
        write_png(folder / mask_path, resize(window.cut(mask) if window else mask, side, nearest=True))
    if window:
        height = width = window.side
    row = {
        "path": path,
        "label": item.label,
        "source": raw.source,
        "source_label": raw.source_label,
        "split": place.split,
        "group": place.group,
        "scene": place.scene,
        "width": side,
        "height": side,
        "sha256": write_image_file(folder / path, image),
        "phash": perceptual_hash(hash_pixels(grey)[None])[0].tobytes().hex(),
        "mask_path": mask_path,
        "boxes": encode_boxes(boxes, side / width, side / height),
        "source_path": item.source_path,
        "source_split": raw.source_split,
        "source_sha256": item.source_sha256,
    }
    return row, asdict(grey_statistics(grey) if tone or window else item.statistics)


def write_pairs(path: Path, pairs: Sequence[Pair], examined: Sequence[Examined], table: pd.DataFrame) -> None:
    """Write the near-duplicate pairs as CSV; images dropped from the merged set have an empty path."""
    keys = zip(table["source"], table["source_path"], strict=True)
    paths = dict(zip(keys, table["path"], strict=True))

    def merged_path(number: int) -> str | None:
        return paths.get((examined[number].raw.source, examined[number].source_path))

    rows = [
        asdict(pair)
        | {"first": merged_path(pair.first), "second": merged_path(pair.second)}
        | {"same_photograph": pair.same_photograph}
        for pair in pairs
    ]
    pd.DataFrame(rows, columns=PAIR_COLUMNS).to_csv(path, index=False, float_format="%.6f")


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """Write the rejected files as CSV with the columns path and reason."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "reason"])
        writer.writerows((item.path, item.reason) for item in rejected)


def check_rejected(rejected: Sequence[Rejected], allowed: int, report: Path) -> None:
    """Raise `TooManyRejectedError` if more than `allowed` files were rejected; it lists the first 20."""
    if len(rejected) <= allowed:
        return
    shown = [f"  {item.path}: {item.reason}" for item in rejected[:20]]
    if len(rejected) > len(shown):
        shown.append(f"  and {len(rejected) - len(shown)} more")
    raise TooManyRejectedError(
        f"{len(rejected)} file(s) cannot be used and max_rejected is {allowed} (full list: {report}):\n"
        + "\n".join(shown)
    )


def count_foreign_boxes(placed: Sequence[Placed]) -> int:
    """Count the boxes whose class differs from their image's."""
    items = [place.item for place in placed]
    return sum(box.label != item.label for item in items for box in item.raw.boxes)


def summarise(table: pd.DataFrame, inspection: InspectionCounts, report: ValidationReport) -> dict[str, Any]:
    """Count images, groups, scenes, splits and expectations, for the metrics file."""
    sizes = table.groupby("group").size()
    combined = table["label"] + " from " + table["source"]
    return {
        "total": len(table),
        "per_class": counts_of(table["label"]),
        "per_source": counts_of(table["source"]),
        "per_split": counts_of(table["split"]),
        "per_class_and_source": counts_of(combined),
        "per_split_and_class": {
            split: counts_of(rows["label"])
            for split, rows in sorted(table.groupby("split"), key=lambda g: str(g[0]))
        },
        "groups": len(sizes),
        "groups_of_several": int((sizes > 1).sum()),
        "groups_across_splits": across_splits(table, "group"),
        "scenes": table["scene"].nunique(),
        "scenes_across_splits": across_splits(table, "scene"),
        "exact_duplicates": int(table["sha256"].duplicated().sum()),
        "with_mask": int(table["mask_path"].notna().sum()),
        "expectations_passed": report.passed,
        "expectations_failed": report.failed,
        "inspection": asdict(inspection),
    }


def summarise_scenes(
    examined: Sequence[Examined], table: pd.DataFrame, pairs: Sequence[Pair], placed: Sequence[Placed]
) -> dict[str, Any]:
    """Count what relates images to one another, and name the datasets' levels, for the metrics file."""
    return {
        "duplicate_pairs": sum(pair.same_photograph for pair in pairs),
        "scene_pairs": len(pairs),
        "dropped_duplicates": len(examined) - len(table[["source", "source_path"]].drop_duplicates()),
        "levels": {item.raw.source: asdict(item.levels) for item in examined if item.levels is not None},
        "boxes_of_another_class": count_foreign_boxes(placed),
    }


def encode_boxes(boxes: Sequence[Box], scale_x: float, scale_y: float) -> str:
    """Encode boxes as JSON, with corners scaled to the written image."""
    rows = []
    for box in boxes:
        row = asdict(box)
        for name, scale in (("xmin", scale_x), ("xmax", scale_x), ("ymin", scale_y), ("ymax", scale_y)):
            row[name] = round(row[name] * scale, 2)
        rows.append(row)
    return json.dumps(rows)
