"""SD-saliency-900: 300 images with masks for each of three strip defects (G. Song et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames
from metaldefect.ingest.adapters.neu_det import SHORT_NAMES
from metaldefect.ingest.adapters.records import RawSample

IMAGES = "Source Images"
MASKS = "ground truth"


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return (root / IMAGES).is_dir()


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `Source Images/{In,Pa,Sc}_<k>.bmp` with masks `Ground truth/<same stem>.png` (see `MaskNames`)."""
    folder = files.root / IMAGES
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: expected the published layout of SD-saliency-900")
    paths = files.images(folder)
    drawn = [
        ("", mask)
        for inner in files.folders(files.root)
        if inner.name.lower() == MASKS
        for mask in files.images(inner)
    ]
    names = MaskNames(files, [("", path) for path in paths], drawn)
    for path, mask in names.paired(paths):
        prefix = path.stem.split("_")[0]
        yield RawSample(
            path=path,
            source=files.source,
            source_label=SHORT_NAMES.get(prefix, prefix),
            mask=mask,
        )
