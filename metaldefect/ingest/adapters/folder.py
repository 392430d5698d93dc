"""The user's own images, in one folder per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `<class>/<image>`; images of the class `good` have no defect."""
    yield from read_classes(files, files.root)


def read_classes(files: DatasetFiles, root: Path) -> Iterator[RawSample]:
    """Yield every image of every class folder below `root`."""
    folders = files.folders(root)
    if not folders:
        raise UserError(f"{root} holds no class folders: expected <class>/<image>")
    for folder in folders:
        for path in files.images(folder):
            yield RawSample(path, files.source, folder.name, is_normal=folder.name == GOOD)
