"""Dataset adapters by name: each turns one published layout into `RawSample` records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from metaldefect.ingest.adapters import (
    dagm_2007,
    folder,
    gc10_det,
    kolektor_sdd,
    magnetic_tile,
    mvtec_ad,
    neu_det,
    sd_saliency_900,
    severstal,
)
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import Box, RawSample, Rejected, RejectedFileError, RunLengths

Adapter = Callable[[DatasetFiles], Iterator[RawSample]]

ADAPTERS: dict[str, Adapter] = {
    "neu_det": neu_det.read,
    "sd_saliency_900": sd_saliency_900.read,
    "x_sdd": folder.read_x_sdd,
    "magnetic_tile": magnetic_tile.read,
    "mvtec_ad": mvtec_ad.read,
    "gc10_det": gc10_det.read,
    "dagm_2007": dagm_2007.read,
    "kolektor_sdd": kolektor_sdd.read,
    "severstal": severstal.read,
    "folder": folder.read,
}


def read_dataset(adapter: str, root: Path, source: str | None = None) -> tuple[list[RawSample], DatasetFiles]:
    """Read a dataset's records in a fixed order.

    Args:
        adapter: a name in `ADAPTERS`.
        root: the dataset's folder.
        source: its name in the sample table; the adapter's where None.

    Returns:
        The records, and the dataset's files with those that were refused so far.

    Raises:
        ValueError: unknown adapter, or a folder without a single image.
        FileNotFoundError: the folder, or a part of the published layout, is missing.
    """
    if adapter not in ADAPTERS:
        raise ValueError(f"unknown dataset adapter {adapter!r}: known are {', '.join(sorted(ADAPTERS))}")
    files = DatasetFiles(root, source or adapter)
    samples = list(ADAPTERS[adapter](files))
    if not samples and not files.rejected:
        raise ValueError(f"{root} holds no images that the adapter {adapter!r} knows")
    return samples, files


__all__ = [
    "ADAPTERS",
    "Box",
    "DatasetFiles",
    "RawSample",
    "Rejected",
    "RejectedFileError",
    "RunLengths",
    "read_dataset",
]
