"""MVTec AD, and any folder in its layout (P. Bergmann et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

SPLITS = ("train", "validation", "canvas", "test")  # only this project writes canvas


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read one category: `{train,validation,canvas,test}/<type>/`, `ground_truth/<type>/<stem>_mask.png`."""
    if not (files.root / "train" / GOOD).is_dir():
        categories = [f.name for f in files.folders(files.root) if (f / "train" / GOOD).is_dir()]
        hint = (
            f"choose one of its categories: {', '.join(categories)}"
            if categories
            else "expected MVTec AD layout"
        )
        raise UserError(f"{files.root / 'train' / GOOD} does not exist: {hint}")
    for split in SPLITS:
        if (files.root / split).is_dir():
            for folder in files.folders(files.root / split):
                for path in files.images(folder):
                    yield RawSample(
                        path=path,
                        source=files.source,
                        source_label=folder.name,
                        source_split=split,
                        mask=find_mask(files, folder.name, path),
                        is_normal=folder.name == GOOD,
                    )


def find_mask(files: DatasetFiles, label: str, image: Path) -> Path | None:
    """The mask, named `<stem>_mask.png` as by MVTec or `<stem>.png` as in some copies; None if missing."""
    if label == GOOD:
        return None
    folder = files.root / "ground_truth" / label
    return files.sidecar(folder / f"{image.stem}_mask.png") or files.sidecar(folder / f"{image.stem}.png")
