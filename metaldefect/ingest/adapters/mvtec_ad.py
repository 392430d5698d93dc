"""MVTec AD, and any folder in its layout (P. Bergmann et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames, folder_of
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

SPLITS = ("train", "validation", "canvas", "test")  # only this project writes canvas


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return (root / "train" / GOOD).is_dir()


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read one category: `{train,validation,canvas,test}/<type>/`, masks below `ground_truth/<type>/`."""
    if not (files.root / "train" / GOOD).is_dir():
        categories = [f.name for f in files.folders(files.root) if (f / "train" / GOOD).is_dir()]
        hint = (
            f"choose one of its categories: {', '.join(categories)}"
            if categories
            else "expected MVTec AD layout"
        )
        raise UserError(f"{files.root / 'train' / GOOD} does not exist: {hint}")
    masks = files.root / "ground_truth"
    splits = [split for split in SPLITS if (files.root / split).is_dir()]
    for split in splits:
        files.reject_loose_images(files.root / split)
    found = [
        (split, folder.name, path)
        for split in splits
        for folder in files.folders(files.root / split)
        for path in files.images(folder, nested=True)
    ]
    defects = [
        (folder_of(files.root / split, path), path) for split, label, path in found if not is_good(label)
    ]
    drawn = files.images(masks, nested=True) if masks.is_dir() else []
    names = MaskNames(files, defects, [(folder_of(masks, path), path) for path in drawn])
    for split, label, path in found:
        try:
            mask = names.find(path)
        except RejectedFileError as error:
            files.reject(path, str(error))
            continue
        yield RawSample(
            path=path,
            source=files.source,
            source_label=label,
            source_split=split,
            mask=mask,
            is_normal=is_good(label),
        )


def is_good(label: str) -> bool:
    """Whether a folder holds good images; copies of published sets differ in case."""
    return label.lower() == GOOD
