"""KolektorSDD: cracks in plastic around electrical commutators (D. Tabernik et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.image_files import coded_levels, defect_pixels, open_checked
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any(path.is_dir() for path in root.glob("kos*"))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `kos<k>/Part<n>.jpg` with `Part<n>_label.bmp`; an all-zero label means `good`, else `defect`."""
    folders = [folder for folder in files.folders(files.root) if folder.name.startswith("kos")]
    if not folders:
        raise UserError(f"{files.root} holds no kos<k> folders: expected the published layout of KolektorSDD")
    for folder in folders:
        for path in files.images(folder):
            if path.stem.endswith("_label"):
                continue
            mask = files.sidecar(path.with_name(f"{path.stem}_label.bmp"))
            if mask is None:
                files.reject(path, f"no label file {path.stem}_label.bmp, so its class is unknown")
                continue
            try:
                defective = bool(defect_pixels(coded_levels(open_checked(mask))).any())
            except RejectedFileError as error:
                files.reject(mask, str(error))
                continue
            yield RawSample(
                path=path,
                source=files.source,
                source_label="defect" if defective else GOOD,
                mask=mask,
                is_normal=not defective,
            )
