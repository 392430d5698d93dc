"""GC10-DET: ten defects of steel sheet (X. Lv et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.ingest.adapters.voc import index_annotations, read_annotation, reject_unused

# The release numbers its class folders; the paper names the classes.
CLASSES = {
    "1": "punching_hole",
    "2": "welding_line",
    "3": "crescent_gap",
    "4": "water_spot",
    "5": "oil_spot",
    "6": "silk_spot",
    "7": "inclusion",
    "8": "rolled_pit",
    "9": "crease",
    "10": "waist_folding",
}
# The release spells its annotation folder "lable".
ANNOTATION_FOLDERS = frozenset({"lable", "label", "labels"})


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any((root / n).is_dir() for n in CLASSES) and any((root / n).is_dir() for n in ANNOTATION_FOLDERS)


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `<1..10>/<image>.jpg` with VOC boxes under `lable/`."""
    annotations = index_annotations(files)
    folders = [folder for folder in files.folders(files.root) if folder.name not in ANNOTATION_FOLDERS]
    if not any(folder.name in CLASSES for folder in folders):
        raise UserError(f"{files.root} holds no folders 1 to 10: expected the published layout of GC10-DET")
    found = [(folder.name, path) for folder in folders for path in files.images(folder)]
    reject_unused(files, annotations, [path for _, path in found])
    for name, path in found:
        annotation = read_annotation(files, annotations.get(path.stem), class_of)
        yield RawSample(
            path=path,
            source=files.source,
            source_label=CLASSES.get(name, name),
            boxes=annotation.boxes,
            size=annotation.size,
        )


def class_of(label: str) -> str:
    """The class of a box label such as `1_chongkong`: its number counts, its pinyin has typing errors.

    Raises:
        RejectedFileError: the label has no known number.
    """
    number = label.partition("_")[0]
    if number not in CLASSES:
        raise RejectedFileError(f"box label {printable(label)!r} does not begin with a class number, 1 to 10")
    return CLASSES[number]
