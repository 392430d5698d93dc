"""Dataset adapters by name: each turns one published layout into `RawSample` records.

Every module of this package with a function `read(files: DatasetFiles) -> Iterator[RawSample]` is an adapter
named after the module, so adding an adapter takes one new file. Its function `fits(root: Path) -> bool` says
whether a folder has its layout; `folder` has none, because it fits where no other layout does.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

from metaldefect.errors import UserError, printable
from metaldefect.image_files import is_hidden_name
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import Box, RawSample, Rejected, RunLengths

Adapter = Callable[[DatasetFiles], Iterator[RawSample]]

MODULES = {
    name: module
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__))
    if hasattr(module := importlib.import_module(f"{__name__}.{name}"), "read")
}
ADAPTERS: dict[str, Adapter] = {name: module.read for name, module in MODULES.items()}
TABLES = frozenset({"csv_table", "coco"})


def recognise(root: Path) -> str:
    """The name of the adapter whose layout a folder has; `folder` if it has no other.

    Raises:
        UserError: it is no folder, has several layouts, or holds several datasets.
    """
    if not root.is_dir():
        raise UserError(f"{root} does not exist: name a folder of images")
    found = fitting(root)
    # A table says what images show, so it counts more than the names of folders
    found = [name for name in found if name in TABLES] or found
    if len(found) > 1:
        raise UserError(f"{root} looks like {' and '.join(found)}: say which one with --adapter")
    if found:
        return found[0]
    inside = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden_name(path.name))
    datasets = [printable(name) for name in inside if fitting(root / name)]
    if datasets:
        raise UserError(f"{root} holds several datasets: check one of {', '.join(datasets)}")
    return "folder"


def fitting(root: Path) -> list[str]:
    """Names of the adapters whose layout a folder has."""
    return [name for name, module in MODULES.items() if hasattr(module, "fits") and module.fits(root)]


def read_dataset(adapter: str, root: Path, source: str | None = None) -> tuple[list[RawSample], DatasetFiles]:
    """Read a dataset's records in a fixed order.

    Args:
        adapter: a name in `ADAPTERS`.
        root: the dataset's folder.
        source: its name in the sample table; None uses the adapter's name.

    Returns:
        The records, and the dataset's files, including those rejected so far. Images that the layout has no
        place for are noted.

    Raises:
        UserError: the adapter is unknown, the folder or part of the published layout is missing, or the
            folder holds no images.
    """
    if adapter not in ADAPTERS:
        raise UserError(f"unknown dataset adapter {adapter!r}: known are {', '.join(sorted(ADAPTERS))}")
    files = DatasetFiles(root, source or adapter)
    samples = list(ADAPTERS[adapter](files))
    if not samples and not files.rejected:
        raise UserError(f"{root} holds no images that the adapter {adapter!r} knows")
    for place, paths in files.unseen_images().items():
        files.note(
            place,
            f"holds {len(paths)} image(s) for which the layout {adapter} has no place, such as"
            f" {files.relative(paths[0])}: left out",
        )
    return samples, files


__all__ = [
    "ADAPTERS",
    "Box",
    "DatasetFiles",
    "RawSample",
    "Rejected",
    "RunLengths",
    "read_dataset",
    "recognise",
]
