"""The user's own images, in one folder per class, with masks for all, some or none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames, Placed, folder_of, is_mask_name
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

MASK_TREES = frozenset({"masks", "ground_truth"})


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `<class>/<image>`, at any depth below the class; images of the class `good` have no defect.

    The mask of `<class>/<stem>.png` is `<class>/<stem>_mask.*` or, in a parallel tree,
    `masks/<class>/<stem>.*` (see `MaskNames`). An image without a mask is read without one.
    """
    yield from read_classes(files, files.root)


def read_classes(files: DatasetFiles, root: Path) -> Iterator[RawSample]:
    """Yield every image of every class folder below `root`, with its mask."""
    folders = files.folders(root)
    trees = [folder for folder in folders if folder.name.lower() in MASK_TREES]
    classes = [folder for folder in folders if folder not in trees]
    if not classes:
        raise UserError(f"{root} holds no class folders: expected <class>/<image>, such as good/1.png")
    files.reject_loose_images(root)
    found = [(folder.name, path) for folder in classes for path in files.images(folder, nested=True)]
    images = [(label, path) for label, path in found if not is_mask_name(path)]
    beside = [path for _, path in found if is_mask_name(path)]
    parallel = [(tree, path) for tree in trees for path in files.images(tree, nested=True)]
    masks: list[Placed] = [(folder_of(root, path), path) for path in beside]
    masks += [(folder_of(tree, path), path) for tree, path in parallel]
    names = MaskNames(files, [(folder_of(root, path), path) for _, path in images], masks)
    for label, path in images:
        try:
            mask = names.find(path)
        except RejectedFileError as error:
            files.reject(path, str(error))
            continue
        is_normal = label.lower() == GOOD
        yield RawSample(path, files.source, GOOD if is_normal else label, mask=mask, is_normal=is_normal)
