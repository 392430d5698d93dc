"""NEU-DET and NEU-CLS: six hot-rolled strip defects (K. Song, Y. Yan, 2013)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.ingest.adapters.voc import index_annotations, read_annotation, reject_unused

# File name prefixes of the classification release (NEU-CLS).
SHORT_NAMES = {
    "Cr": "crazing",
    "In": "inclusion",
    "Pa": "patches",
    "PS": "pitted_surface",
    "RS": "rolled-in_scale",
    "Sc": "scratches",
}
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "test": "test"}
FLAT_FOLDERS = frozenset(
    {"images", "validation_images", "jpegimages", "train", "validation", "valid", "test"}
)
STEM = re.compile(r"(?P<label>.+?)_(?P<number>\d+)")
# The split of the common copy of NEU-DET: in each class, 1 to 240 are train and 241 to 300 validation.
LAST_TRAIN, LAST_VALIDATION = 240, 300


def fits(root: Path) -> bool:
    """Whether a folder has this layout: with class folders, or flat with VOC annotations."""
    if (root / "train/images").is_dir():
        return any(path.is_dir() for path in (root / "train/images").iterdir())
    flat = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    return "images" in flat and any(flat.get("annotations", root / "annotations").glob("*.xml"))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read the Kaggle layout (`train/images/<class>/`) or a flat one (`IMAGES/<class>_<k>.jpg`).

    A flat layout is split by number, like the Kaggle one. A folder named `Validation_Images` does not change
    that: in one public copy it holds only five images per class that its owner picked at random.
    """
    annotations = index_annotations(files)
    paths = files.images(files.root, nested=True, others=True)
    reject_unused(files, annotations, paths)
    for path in paths:
        annotation = read_annotation(files, annotations.get(path.stem))
        yield RawSample(
            path=path,
            source=files.source,
            source_label=label_of(files, path),
            source_split=split_of(files, path),
            boxes=annotation.boxes,
            size=annotation.size,
        )


def label_of(files: DatasetFiles, path: Path) -> str:
    """The class: the folder's name or, in a flat layout, the file name up to its number."""
    parent = path.parent
    if (
        parent != files.root
        and parent.name.lower() not in FLAT_FOLDERS
        and len(files.relative(parent).split("/")) > 1
    ):
        return parent.name
    match = STEM.fullmatch(path.stem)
    prefix = match["label"] if match else path.stem
    return SHORT_NAMES.get(prefix, prefix)


def split_of(files: DatasetFiles, path: Path) -> str | None:
    """The publisher's split, from the first folder named after one, else from the file's number."""
    for part in files.relative(path.parent).split("/"):
        if part.lower() in SPLITS:
            return SPLITS[part.lower()]
    match = STEM.fullmatch(path.stem)
    if match is None or not 1 <= int(match["number"]) <= LAST_VALIDATION:
        return None
    return "train" if int(match["number"]) <= LAST_TRAIN else "validation"
