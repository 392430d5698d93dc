"""Magnetic tile surface defects (Y. Huang, C. Qiu, K. Yuan, 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.image_files import suffix_is_jpeg
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames, is_mask_name
from metaldefect.ingest.adapters.records import RawSample

PREFIX = "MT_"
NORMAL_LABEL = "Free"
IMAGES = "Imgs"


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any(path.is_dir() for path in root.glob(f"{PREFIX}*"))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `MT_<type>/Imgs/<stem>.jpg` with the mask `<stem>.png` beside it.

    Only JPEG files are images; files of any other suffix are masks, found by name (see `MaskNames`).
    """
    folders = [folder for folder in files.folders(files.root) if folder.name.startswith(PREFIX)]
    if not folders:
        raise UserError(f"{files.root} holds no MT_<type> folders: expected the published layout")
    for folder in folders:
        if (folder / IMAGES).is_dir():
            yield from read_class(files, folder)
        else:
            files.reject(folder, f"no folder {IMAGES} in it: move its images and masks to {IMAGES}")


def read_class(files: DatasetFiles, folder: Path) -> Iterator[RawSample]:
    """Read the images of one type."""
    label = folder.name.removeprefix(PREFIX)
    found = files.images(folder / IMAGES)
    # Both lie in one folder and may share a stem, so the suffix says which is which
    images = {path for path in found if suffix_is_jpeg(path) and not is_mask_name(path)}
    paths = [path for path in found if path in images]
    masks = [("", path) for path in found if path not in images]
    names = MaskNames(files, [("", path) for path in paths], masks)
    for path, mask in names.paired(paths):
        yield RawSample(
            path=path,
            source=files.source,
            source_label=label,
            mask=mask,
            is_normal=label == NORMAL_LABEL,
        )
