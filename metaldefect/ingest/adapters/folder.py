"""The user's own images, in one folder per class, with masks for all, some or none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters.files import DatasetFiles
from metaldefect.ingest.adapters.masks import MaskNames, Placed, is_mask_name
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

MASK_TREES = frozenset({"masks", "ground_truth"})
IMAGE_TREES = frozenset({"images", "imgs"})  # beside a folder of masks inside a class


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read `<class>/<image>`, at any depth below the class; images of the class `good` have no defect.

    The mask of `<class>/<stem>.png` is `<class>/<stem>_mask.*`, `<class>/masks/<stem>.*` or, in a parallel
    tree, `masks/<class>/<stem>.*` (see `MaskNames`); the image may lie in `<class>/images`. An image without
    a mask is read without one.
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
    images = [(label, path) for label, path in found if not is_mask(root, path)]
    inside = [path for _, path in found if is_mask(root, path)]
    parallel = [(tree, path) for tree in trees for path in files.images(tree, nested=True)]
    masks: list[Placed] = [(shared_folder(root, path), path) for path in inside]
    masks += [(shared_folder(tree, path), path) for tree, path in parallel]
    names = MaskNames(files, [(shared_folder(root, path), path) for _, path in images], masks)
    for label, path in images:
        try:
            mask = names.find(path)
        except RejectedFileError as error:
            files.reject(path, str(error))
            continue
        is_normal = label.lower() == GOOD
        yield RawSample(path, files.source, GOOD if is_normal else label, mask=mask, is_normal=is_normal)


def is_mask(root: Path, path: Path) -> bool:
    """Whether a file of a class is a mask: by its name, or by a folder of masks inside the class."""
    inner = path.parent.relative_to(root).parts[1:]
    return is_mask_name(path) or any(part.lower() in MASK_TREES for part in inner)


def shared_folder(root: Path, path: Path) -> str:
    """The folder that an image and its mask share: without the folders that tell the two apart."""
    first, *inner = path.parent.relative_to(root).parts or ("",)
    kept = [part for part in inner if part.lower() not in MASK_TREES | IMAGE_TREES]
    return "/".join([first, *kept])
