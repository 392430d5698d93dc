"""Dataset adapters by name: each turns one published layout into `RawSample` records.

Every module of this package with a function `read(files: DatasetFiles) -> Iterator[RawSample]` is an adapter
named after the module, so adding an adapter takes one new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import Box, RawSample, Rejected, RunLengths

Adapter = Callable[[DatasetFiles], Iterator[RawSample]]

ADAPTERS: dict[str, Adapter] = {
    name: module.read
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__))
    if hasattr(module := importlib.import_module(f"{__name__}.{name}"), "read")
}


def read_dataset(adapter: str, root: Path, source: str | None = None) -> tuple[list[RawSample], DatasetFiles]:
    """Read a dataset's records in a fixed order.

    Args:
        adapter: a name in `ADAPTERS`.
        root: the dataset's folder.
        source: its name in the sample table; None uses the adapter's name.

    Returns:
        The records, and the dataset's files, including those rejected so far.

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
    return samples, files


__all__ = [
    "ADAPTERS",
    "Box",
    "DatasetFiles",
    "RawSample",
    "Rejected",
    "RunLengths",
    "read_dataset",
]
