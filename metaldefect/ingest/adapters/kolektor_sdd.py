"""KolektorSDD: cracks in plastic around electrical commutators (D. Tabernik et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.image_files import coded_levels, defect_pixels, open_checked
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

ENDING = "_label"
FOLDERS = "kos[0-9]*"


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any(path.is_dir() for path in root.glob(FOLDERS))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `kos<k>/Part<n>.jpg` with `Part<n>_label.bmp`; an all-zero label means `good`, else `defect`."""
    folders = [folder for folder in files.folders(files.root) if folder.match(FOLDERS)]
    if not folders:
        raise UserError(f"{files.root} holds no kos<k> folders: expected the published layout of KolektorSDD")
    for folder in folders:
        found = files.images(folder)
        paths = [path for path in found if not path.stem.lower().endswith(ENDING)]
        labels = [("", path) for path in found if path.stem.lower().endswith(ENDING)]
        names = MaskNames(files, [("", path) for path in paths], labels, ENDING)
        for path in paths:
            try:
                yield sample_of(files, path, names.find(path))
            except RejectedFileError as error:
                files.reject(path, str(error))


def sample_of(files: DatasetFiles, path: Path, mask: Path | None) -> RawSample:
    """The image with the class that its label file shows.

    Raises:
        RejectedFileError: there is no label file, or it cannot be read.
    """
    if mask is None:
        raise RejectedFileError(f"no label file {path.stem}{ENDING}.bmp, so its class is unknown")
    try:
        defective = bool(defect_pixels(coded_levels(open_checked(mask))).any())
    except RejectedFileError as error:
        raise RejectedFileError(f"its label file {mask.name}: {error}") from error
    return RawSample(
        path=path,
        source=files.source,
        source_label="defect" if defective else GOOD,
        mask=mask,
        is_normal=not defective,
    )
