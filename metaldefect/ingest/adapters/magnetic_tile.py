"""Magnetic tile surface defects (Y. Huang, C. Qiu, K. Yuan, 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample

PREFIX = "MT_"
NORMAL_LABEL = "Free"


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any(path.is_dir() for path in root.glob(f"{PREFIX}*"))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `MT_<type>/Imgs/<stem>.jpg` with the mask `<stem>.png` beside it."""
    folders = [folder for folder in files.folders(files.root) if folder.name.startswith(PREFIX)]
    if not folders:
        raise UserError(f"{files.root} holds no MT_<type> folders: expected the published layout")
    for folder in folders:
        label = folder.name.removeprefix(PREFIX)
        paths = files.images(folder / "Imgs")
        for path in paths:
            if path.suffix.lower() == ".png":
                # Masks share their image's stem; report a mask whose image was lost
                if not path.with_suffix(".jpg").exists():
                    files.reject(path, "mask without its image")
                continue
            yield RawSample(
                path=path,
                source=files.source,
                source_label=label,
                mask=files.sidecar(path.with_suffix(".png")),
                is_normal=label == NORMAL_LABEL,
            )
