"""VisA: one of twelve objects, such as circuit boards and candles (Y. Zou et al., 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

IMAGES = "Data/Images"
MASKS = "Data/Masks"
LABELS = {"Normal": GOOD, "Anomaly": "anomaly"}


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return (root / IMAGES / "Normal").is_dir()


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read one object: `Data/Images/{Normal,Anomaly}/<n>.JPG`, masks `Data/Masks/Anomaly/<n>.png`.

    Masks hold class numbers. The split of the authors lies outside the object's folder, so there is none.
    """
    if not (files.root / IMAGES).is_dir():
        raise UserError(f"{files.root / IMAGES} does not exist: expected the layout of one object of VisA")
    found = files.by_folder(files.root / IMAGES)
    names = MaskNames(files, found, files.by_folder(files.root / MASKS))
    for name, path in found:
        try:
            if name not in LABELS:
                raise RejectedFileError(f"folder {name} is neither {' nor '.join(LABELS)}")
            mask = names.find(path)
        except RejectedFileError as error:
            files.reject(path, str(error))
            continue
        label = LABELS[name]
        yield RawSample(path, files.source, label, mask=mask, is_normal=label == GOOD)
