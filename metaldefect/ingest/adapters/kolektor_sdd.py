"""KolektorSDD: cracks in plastic around electrical commutators (D. Tabernik et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import MASK_MODES, DatasetFiles, open_checked
from metaldefect.ingest.adapters.records import RawSample, RejectedFileError
from metaldefect.inspection.layout import GOOD


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
                defective = bool(np.asarray(open_checked(mask, MASK_MODES).convert("L")).any())
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
