"""Casting product: pump impellers from above, with a label per image and no masks (R. Dabhi, 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

LABELS = {"ok_front": GOOD, "def_front": "defect"}
SPLITS = ("train", "test")


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any((root / parent / "ok_front").is_dir() for parent in ("", *SPLITS))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `{train,test}/{ok_front,def_front}/<image>`, or the 512x512 edition without split folders."""
    if not fits(files.root):
        raise UserError(f"{files.root} holds no folder ok_front: expected the layout of the casting product")
    for split in (None, *SPLITS):
        parent = files.root / (split or "")
        if not parent.is_dir():
            continue
        for folder in files.folders(parent):
            if folder.name not in LABELS:
                if split is not None:
                    files.reject(folder, f"neither {' nor '.join(LABELS)}")
                continue
            label = LABELS[folder.name]
            for path in files.images(folder):
                yield RawSample(path, files.source, label, split, is_normal=label == GOOD)
