"""KolektorSDD2: coloured spots, scratches and imperfections of plastic surfaces (J. Božič et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.image_files import coded_levels, defect_pixels, open_checked
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

SPLITS = ("train", "test")
ENDING = "_gt"
COPY = " (copy)"  # the archive holds two such files, which its authors' split does not name


def fits(root: Path) -> bool:
    """Whether a folder has this layout."""
    return any(next((root / split).glob("*_GT.png"), None) for split in SPLITS)


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `{train,test}/<n>.png` with `<n>_GT.png`; an all-zero mask means `good`, else `defect`."""
    splits = [split for split in SPLITS if (files.root / split).is_dir()]
    if not splits:
        raise UserError(f"{files.root} holds neither train nor test: expected the layout of KolektorSDD2")
    for split in splits:
        yield from read_split(files, split)


def read_split(files: DatasetFiles, split: str) -> Iterator[RawSample]:
    """Read one split."""
    found = files.images(files.root / split)
    paths = [path for path in found if not path.stem.endswith(COPY)]
    for path in found:
        if path.stem.endswith(COPY):
            files.note(path, "a stray copy in the published archive: it is left out")
    images = [("", path) for path in paths if not path.stem.lower().endswith(ENDING)]
    masks = [("", path) for path in paths if path.stem.lower().endswith(ENDING)]
    names = MaskNames(files, images, masks, ENDING)
    for _, path in images:
        try:
            mask = names.find(path)
            if mask is None:
                raise RejectedFileError(f"no mask {path.stem}_GT.png, so its class is unknown")
            defective = bool(defect_pixels(coded_levels(open_checked(mask))).any())
        except RejectedFileError as error:
            files.reject(path, str(error))
            continue
        yield RawSample(
            path=path,
            source=files.source,
            source_label="defect" if defective else GOOD,
            source_split=split,
            mask=mask,
            is_normal=not defective,
        )
