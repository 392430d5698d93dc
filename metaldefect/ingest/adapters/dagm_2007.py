"""DAGM 2007: ten artificial textures, with and without defects (M. Wieler, T. Hahn, 2007)."""

from __future__ import annotations

from collections.abc import Iterator

from metaldefect.errors import UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

SPLITS = {"Train": "train", "Test": "test"}


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `Class<k>/{Train,Test}/<n>.PNG`, with masks `Label/<n>_label.PNG` of the defective images.

    Labels are `Class<k> defect` and, for images without a label file, `Class<k> good`.
    """
    folders = [folder for folder in files.folders(files.root) if folder.name.startswith("Class")]
    if not folders:
        raise UserError(f"{files.root} holds no Class<k> folders: expected the published layout of DAGM 2007")
    for folder in folders:
        for name, split in SPLITS.items():
            if not (folder / name).is_dir():
                continue
            for path in files.images(folder / name):
                mask = files.sidecar(folder / name / "Label" / f"{path.stem}_label{path.suffix}")
                kind = GOOD if mask is None else "defect"
                yield RawSample(
                    path=path,
                    source=files.source,
                    source_label=f"{folder.name} {kind}",
                    source_split=split,
                    mask=mask,
                    is_normal=mask is None,
                )
