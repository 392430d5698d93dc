"""DAGM 2007: ten artificial textures, with and without defects (M. Wieler, T. Hahn, 2007)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

SPLITS = {"Train": "train", "Test": "test"}
LABELS = "Label"


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any(path.is_dir() for split in SPLITS for path in root.glob(f"Class*/{split}"))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `Class<k>/{Train,Test}/<n>.PNG`, with masks `Label/<n>_label.*` of the defective images.

    Labels are `Class<k> defect` and, for images without a label file, `Class<k> good`. That holds only where
    the label folder is there and each of its files fits an image; other images are refused.
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
    if not labels.is_dir():
        why = f"its class is unknown: {files.relative(folder / name)} has no folder {LABELS}"
    elif masks.without_image:
        why = "its class is unknown: a label file fits no image, so that one of them may be its own"
    else:
        why = ""
    for path in paths:
        mask = masks.find(path)
        if mask is None and why:
            files.reject(path, why)
            continue
        yield RawSample(
            path=path,
            source=files.source,
            source_label=f"{folder.name} {GOOD if mask is None else 'defect'}",
            source_split=split,
            mask=mask,
            is_normal=mask is None,
        )
