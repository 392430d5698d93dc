"""BTAD (beanTech): one of three industrial products (P. Mishra et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

SPLITS = ("train", "test")
LABELS = {"ok": GOOD, "ko": "defect"}
MASKS = "ground_truth"


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return (root / "train/ok").is_dir()


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read one product: `{train,test}/{ok,ko}/<n>.*`, masks `ground_truth/ko/<n>.*`, PNG or BMP."""
    if not fits(files.root):
        raise UserError(f"{files.root / 'train/ok'} does not exist: expected the layout of a BTAD product")
    found = [(split, *image) for split in SPLITS for image in files.by_folder(files.root / split)]
    # Only test images have masks; training images of the same number exist
    tested = [(name, path) for split, name, path in found if split == "test"]
    names = MaskNames(files, tested, files.by_folder(files.root / MASKS))
    for split, name, path in found:
        try:
            if name not in LABELS:
                raise RejectedFileError(f"folder {name} is neither {' nor '.join(LABELS)}")
            mask = names.find(path)
        except RejectedFileError as error:
            files.reject(path, str(error))
            continue
        label = LABELS[name]
        yield RawSample(path, files.source, label, split, mask, is_normal=label == GOOD)
