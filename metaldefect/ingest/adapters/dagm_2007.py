"""DAGM 2007: ten artificial textures, with and without defects (M. Wieler, T. Hahn, 2007)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

SPLITS = {"Train": "train", "Test": "test"}
LABELS = "Label"
TABLE = "labels.txt"


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any(path.is_dir() for split in SPLITS for path in root.glob(f"Class*/{split}"))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `Class<k>/{Train,Test}/<n>.PNG`, with masks `Label/<n>_label.*` of the defective images.

    Labels are `Class<k> defect` and, for images without a label file, `Class<k> good`: those that
    `Label/Labels.txt` lists without a defect or, if there is no such table, all of them, as long as there are
    label files and each fits an image. Other images are refused.
    """
    folders = [folder for folder in files.folders(files.root) if folder.name.startswith("Class")]
    if not folders:
        raise UserError(f"{files.root} holds no Class<k> folders: expected the published layout of DAGM 2007")
    for folder in folders:
        for name, split in SPLITS.items():
            if (folder / name).is_dir():
                yield from read_split(files, folder, name, split)


def read_split(files: DatasetFiles, folder: Path, name: str, split: str) -> Iterator[RawSample]:
    """Read one class's images of one split."""
    paths = files.images(folder / name, skip={LABELS.lower()})
    labels = folder / name / LABELS
    drawn = files.images(labels, others=True) if labels.is_dir() else []
    masks = MaskNames(files, [("", path) for path in paths], [("", path) for path in drawn], "_label")
    table = read_table(files, labels, {path.name.lower() for path in paths}) if labels.is_dir() else None
    if not labels.is_dir():
        why = f"{files.relative(folder / name)} has no folder {LABELS}"
    elif masks.without_image:
        why = "a label file fits no image, so that one of them may be its own"
    elif table is None and not drawn:
        why = f"{files.relative(labels)} holds neither label files nor a table of them"
    else:
        why = ""
    for path in paths:
        try:
            mask = masks.find(path)
            if mask is None and why:
                raise RejectedFileError(f"its class is unknown: {why}")
            if path in masks.ambiguous:
                raise RejectedFileError("its class is unknown: a label file fits it and another image")
            if table is not None:
                check_listed(table.get(path.name.lower(), set()), mask)
        except RejectedFileError as error:
            files.reject(path, str(error))
            continue
        yield RawSample(
            path=path,
            source=files.source,
            source_label=f"{folder.name} {GOOD if mask is None else 'defect'}",
            source_split=split,
            mask=mask,
            is_normal=mask is None,
        )


def check_listed(states: Collection[bool], mask: Path | None) -> None:
    """Check that `Labels.txt` says the same as the label files.

    Args:
        states: whether the image has a defect, as each of its lines says.
        mask: its label file.

    Raises:
        RejectedFileError: nothing tells the class of the image, or the table contradicts itself or the label
            files.
    """
    if not states and mask is None:
        raise RejectedFileError("its class is unknown: Labels.txt does not list it")
    if len(states) > 1:
        raise RejectedFileError("its class is unknown: lines of Labels.txt contradict each other")
    if True in states and mask is None:
        raise RejectedFileError("Labels.txt says that it has a defect, but it has no label file")
    if False in states and mask is not None:
        raise RejectedFileError("Labels.txt says that it has no defect, but it has a label file")


def read_table(files: DatasetFiles, labels: Path, names: Collection[str]) -> dict[str, set[bool]] | None:
    """Whether images have a defect, by file name in lower case, as `Labels.txt` says.

    Lines are `<number> <0 or 1> <image> <number> <label file or 0>`, after a line with one number. Lines that
    cannot be used, and images that are not there, are rejected.

    Args:
        files: the dataset.
        labels: the folder of the table.
        names: file names of the images, in lower case.

    Returns:
        What each line of an image says; None if there is no table.
    """
    tables = [path for path in labels.iterdir() if path.name.lower() == TABLE]
    found: dict[str, set[bool]] = defaultdict(set)
    for table in tables:
        try:
            lines = files.read_text(table).splitlines()
        except RejectedFileError as error:
            files.reject(table, str(error))
            continue
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if not fields or (number == 1 and len(fields) < 3):
                continue
            if len(fields) < 3 or fields[1] not in ("0", "1"):
                files.reject(table, f"line {number}: expected a number, 0 or 1, and the name of an image")
            elif fields[2].lower() not in names:
                files.reject(table, f"line {number}: names an image that is not there: {fields[2]}")
            else:
                found[fields[2].lower()].add(fields[1] == "1")
    return found if tables else None
