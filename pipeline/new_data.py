"""Copy the user's images into a new project, sorted as the adapter `folder` reads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from metaldefect.errors import UserError, printable
from metaldefect.image_files import IMAGE_SUFFIXES, REFUSED_SUFFIXES, is_hidden_name
from metaldefect.ingest.adapters.folder import MASK_TREES
from metaldefect.ingest.adapters.masks import MASK_ENDING
from metaldefect.ingest.overview import Overview, look_at
from metaldefect.inspection.layout import GOOD

LISTED = 10


class Folders(NamedTuple):
    """Where the user's images lie.

    Attributes:
        good: images without a defect, at any depth.
        defects: images with defects: one folder per class, or images of one class, named after the folder.
        masks: their masks, with the images' names: one folder per class, or all in one.
    """

    good: Path
    defects: Path | None
    masks: Path | None


def copy_images(folders: Folders, root: Path) -> Overview:
    """Copy all files to `root` as `good/`, `<class>/` and `masks/<class>/`, and look at every image.

    Raises:
        UserError: a folder is missing or empty, a mask fits no image or several, a file cannot be used, or
            the disk is too small. Refused files are listed with their original paths.
    """
    copies = plan_copies(folders)
    needed = sum(source.stat().st_size for source in copies.values())
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(f"the images need {needed:,} bytes, and the disk of {root.parent} has {free:,} free")
    for name, source in tqdm(copies.items(), desc="copy images", unit="file"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / name)
    seen = look_at(root, "folder")
    refused = {}
    for file in seen.rejected:
        name = file.path.split("/", 1)[1]
        refused[str(copies.get(name, name))] = file.reason
    raise_refused(refused)
    return seen


def raise_refused(refused: Mapping[str, str]) -> None:
    """Raise a `UserError` that lists refused files with their reasons, if there are any."""
    if not refused:
        return
    lines = [f"  {printable(name)}: {reason}" for name, reason in list(refused.items())[:LISTED]]
    if len(refused) > LISTED:
        lines.append(f"  and {len(refused) - LISTED} more")
    raise UserError(
        f"{len(refused)} file(s) cannot be used. Nothing was made: repair or remove them, and try again.\n"
        + "\n".join(lines)
    )


def plan_copies(folders: Folders) -> dict[str, Path]:
    """The source of every file by its path in the project's data; see `copy_images`."""
    for folder in filter(None, folders):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name the folder of your images")
    refuse_inside_good(folders)
    copies = {f"{GOOD}/{name.as_posix()}": folders.good / name for name in files_below(folders.good)}
    if not copies:
        raise UserError(f"{folders.good} holds no files: --good names the folder of images without a defect")
    if folders.defects is None:
        return copies
    classes = find_classes(folders)
    for label, folder in classes.items():
        copies |= {f"{label}/{name.as_posix()}": folder / name for name in files_of_class(folder, folders)}
    if (masks := mask_folder(folders)) is not None:
        images = {label: files_of_class(folder, folders) for label, folder in classes.items()}
        copies |= plan_masks(masks, images)
    return copies


def refuse_inside_good(folders: Folders) -> None:
    """Raise `UserError` if defects or masks lie inside the folder of good images: all there count as good."""
    for option, folder in (("--defects", folders.defects), ("--masks", folders.masks)):
        if folder is not None and folder.resolve().is_relative_to(folders.good.resolve()):
            raise UserError(
                f"{option} {folder} lies inside --good {folders.good}, where every file counts as an image"
                " without a defect: move it out, or name the folder of good images alone"
            )


def files_below(folder: Path) -> list[Path]:
    """Paths of all files below a folder, relative to it, without those that file managers leave."""
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in names if not any(is_hidden_name(part) for part in name.parts)]


def files_of_class(folder: Path, folders: Folders) -> list[Path]:
    """Like `files_below`, without good images and masks in there, as in a folder of one class."""
    apart = {each.resolve() for each in (folders.good, mask_folder(folders)) if each is not None}
    return [
        name
        for name in files_below(folder)
        if not any((folder / parent).resolve() in apart for parent in name.parents)
    ]


def is_image(path: Path) -> bool:
    """Whether a file has an image's suffix, also one that is refused later with a reason."""
    return path.suffix.lower() in IMAGE_SUFFIXES | REFUSED_SUFFIXES


def mask_folder(folders: Folders) -> Path | None:
    """The folder of masks that is named, or one inside the folder of defects."""
    if folders.masks is not None or folders.defects is None:
        return folders.masks
    inside = (path for path in folders.defects.iterdir() if path.is_dir() and path.name.lower() in MASK_TREES)
    return next(inside, None)


def find_classes(folders: Folders) -> dict[str, Path]:
    """The folder of each class of defects.

    Raises:
        UserError: there are no images, images lie beside class folders, or a class has a reserved name.
    """
    assert folders.defects is not None
    root = folders.defects
    others = {folder.resolve() for folder in (folders.good, folders.masks) if folder is not None}
    entries = [path for path in sorted(root.iterdir()) if not is_hidden_name(path.name)]
    inner = [
        path
        for path in entries
        if path.is_dir() and path.resolve() not in others and path.name.lower() not in MASK_TREES
    ]
    classes = {path.name: path for path in inner if any(map(is_image, files_below(path)))}
    loose = [path for path in entries if path.is_file() and is_image(path)]
    if loose and classes:
        raise UserError(
            f"{root} holds images ({printable(loose[0].name)}, ...) beside class folders"
            f" ({', '.join(classes)}): move them into the folder of their class"
        )
    if loose:
        classes = {root.resolve().name: root}
    if not classes:
        raise UserError(f"{root} holds no images: --defects names a folder per class, or images of one class")
    reserved = [label for label in classes if label.lower() in MASK_TREES | {GOOD}]
    if reserved:
        raise UserError(
            f"{classes[reserved[0]]} would be a class of defects called {reserved[0]!r}: name the folder"
            " after its defects; --good and --masks name the folders of normal images and of masks"
        )
    return classes


def plan_masks(masks: Path, images: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    """The source of every mask by its path in the project's data.

    Args:
        masks: their folder.
        images: paths of each class's files, relative to its folder.

    Raises:
        UserError: a mask fits no image, or images of several classes.
    """
    owners: dict[str, list[tuple[str, Path]]] = {}
    for label, names in images.items():
        for name in filter(is_image, names):
            owners.setdefault(name.stem.lower(), []).append((label, name.parent))
    copies, refused = {}, {}
    for name in files_below(masks):
        if name.parts[0] in images and len(name.parts) > 1:
            copies[f"masks/{name.as_posix()}"] = masks / name
            continue
        found = next((owners[stem] for stem in stems_of(name) if stem in owners), [])
        if len(found) == 1:
            (label, folder), *_ = found
            copies[f"masks/{label}/{(folder / name.name).as_posix()}"] = masks / name
        elif found:
            labels = " and ".join(sorted({label for label, _ in found}))
            refused[str(masks / name)] = f"fits several images ({labels}): sort the masks as the images"
        else:
            refused[str(masks / name)] = "mask without its image"
    raise_refused(refused)
    return copies


def stems_of(mask: Path) -> Iterator[str]:
    """The stems that the image of a mask may have."""
    yield mask.stem.lower()
    yield mask.stem.lower().removesuffix(MASK_ENDING)
