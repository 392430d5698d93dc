"""Read untrusted files: decode strictly, and never read outside the dataset's folder."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.image_files import IMAGE_SUFFIXES, REFUSED_SUFFIXES, U8, is_hidden_name, is_turned
from metaldefect.ingest.adapters.records import Rejected, RunLengths

MAX_TEXT_BYTES = 64 * 2**20
MAX_NAME_BYTES = 255  # of a file, on every common file system
MAX_LABEL = 100  # characters


class DatasetFiles:
    """The files of one dataset: lists them in a fixed order and collects rejected ones in `rejected`.

    `notes` names files that are used or left out in a way that the user may not expect.

    Args:
        root: the dataset's folder.
        source: its name in the sample table.

    Raises:
        UserError: the folder does not exist.
    """

    def __init__(self, root: Path, source: str) -> None:
        if not root.is_dir():
            raise UserError(f"{root} does not exist: put the dataset {source!r} there or change its root")
        self.root = root
        self.source = source
        self.rejected: list[Rejected] = []
        self.notes: list[Rejected] = []
        self._seen: set[Path] = set()
        self._resolved_root = root.resolve()

    def images(
        self, folder: Path, *, nested: bool = False, others: bool = False, skip: Collection[str] = ()
    ) -> list[Path]:
        """Image files of a folder in natural order; rejects other and unsafe files.

        Args:
            folder: a folder of the dataset.
            nested: also return the images of all sub-folders; otherwise a sub-folder with images is rejected.
            others: files that are no images are expected here and left alone.
            skip: names of sub-folders to leave alone, in lower case.
        """
        paths = []
        for path in sorted(self._walk(folder, nested, skip), key=self._order):
            if not self.accepts(path):
                continue
            if path.is_dir():
                self.reject(path, "folder inside a folder of images: move its images up, or remove it")
            elif path.suffix.lower() in IMAGE_SUFFIXES | REFUSED_SUFFIXES:
                paths.append(path)
                self._seen.add(path)
            elif not others:
                self.reject(path, f"not an image: unknown file type {path.suffix!r}")
        return paths

    def _walk(self, folder: Path, nested: bool, skip: Collection[str]) -> Iterator[Path]:
        """Visible entries: files, and sub-folders that are neither entered nor free of images."""
        for path in folder.iterdir():
            if is_hidden_name(path.name) or path.name.lower() in skip:
                continue
            if not path.is_dir() or path.is_symlink():
                yield path
            elif nested:
                yield from self._walk(path, nested, skip)
            elif any(inner.suffix.lower() in IMAGE_SUFFIXES for inner in path.rglob("*")):
                yield path

    def reject_loose_images(self, folder: Path) -> None:
        """Reject images that lie directly in a folder whose sub-folders say what an image shows."""
        for path in sorted(folder.iterdir(), key=self._order):
            is_image = path.suffix.lower() in IMAGE_SUFFIXES | REFUSED_SUFFIXES
            if is_image and not is_hidden_name(path.name) and not path.is_dir():
                self.reject(path, "image outside the class folders: move it into the folder of its class")

    def folders(self, folder: Path) -> list[Path]:
        """Visible sub-folders in natural order; rejects unsafe ones, such as links out of the root."""
        found = sorted((path for path in folder.iterdir() if path.is_dir()), key=self._order)
        return [path for path in found if not is_hidden_name(path.name) and self.accepts(path)]

    def by_folder(self, folder: Path) -> list[tuple[str, Path]]:
        """The images of each sub-folder with its name; none if the folder does not exist."""
        if not folder.is_dir():
            return []
        return [(inner.name, path) for inner in self.folders(folder) for path in self.images(inner)]

    def unseen_images(self) -> dict[Path, list[Path]]:
        """Images that were neither listed nor rejected nor noted, by folder of the root."""
        found: dict[Path, list[Path]] = defaultdict(list)
        for folder, names, entries in os.walk(self.root):
            place = Path(folder)
            names[:] = [n for n in names if not is_hidden_name(n) and place / n not in self._seen]
            for path in (place / name for name in entries if not is_hidden_name(name)):
                if path.suffix.lower() in IMAGE_SUFFIXES | REFUSED_SUFFIXES and path not in self._seen:
                    top = path.relative_to(self.root).parts[0]
                    found[self.root if place == self.root else self.root / top].append(path)
        return {top: sorted(paths, key=self._order) for top, paths in sorted(found.items())}

    def accepts(self, path: Path) -> bool:
        """Whether a path is safe to read; if not, rejects it with the reason."""
        try:
            self.check(path)
        except RejectedFileError as error:
            self.reject(path, str(error))
            return False
        return True

    def check(self, path: Path) -> None:
        """Raise `RejectedFileError` if the path points outside the root or is neither file nor folder."""
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise RejectedFileError("broken symbolic link") from error
        if not target.is_relative_to(self._resolved_root):
            raise RejectedFileError("symbolic link that leaves the dataset's folder: copy the file into it")
        if not (target.is_file() or target.is_dir()):
            # Reading a named pipe would block forever
            raise RejectedFileError("neither a file nor a folder")

    def named(self, folder: Path, name: str) -> Path:
        """The path that an annotation names, inside the dataset; it may not exist.

        Raises:
            RejectedFileError: no file can have this name, or it leads out of the dataset's folder.
        """
        parts = PurePosixPath(name.strip().replace("\\", "/"))
        too_long = any(len(part.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES for part in parts.parts)
        is_impossible = too_long or "\0" in name
        if is_impossible or parts.is_absolute() or name.strip()[1:2] == ":" or not parts.parts:
            raise RejectedFileError(f"{printable(name)!r} is no path inside the dataset's folder")
        path = Path(os.path.normpath(folder / parts))
        if not path.is_relative_to(self.root):
            raise RejectedFileError(f"{printable(name)!r} leads out of the dataset's folder")
        return path

    def reject(self, path: Path, reason: str) -> None:
        """Record a rejected file once, under a name that is safe to print."""
        row = Rejected(self.display_name(path), printable(reason))
        self._seen.add(path)
        if row not in self.rejected:
            self.rejected.append(row)

    def note(self, path: Path, text: str) -> None:
        """Record once what the user should know about a file that is not rejected."""
        row = Rejected(self.display_name(path), printable(text))
        self._seen.add(path)
        if row not in self.notes:
            self.notes.append(row)

    def display_name(self, path: Path) -> str:
        """The name `<source>/<path in the dataset>`, safe to print."""
        return f"{self.source}/{self.relative(path)}"

    def relative(self, path: Path) -> str:
        """The path inside the dataset, with forward slashes, safe to print and to store."""
        return printable(path.relative_to(self.root).as_posix())

    def read_text(self, path: Path) -> str:
        """Read a text file inside the root.

        Raises:
            RejectedFileError: the file is outside the root, larger than 64 MiB, or not UTF-8.
        """
        self.check(path)
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise RejectedFileError(f"text file larger than {MAX_TEXT_BYTES} bytes")
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise RejectedFileError("text file that is not UTF-8") from error

    def _order(self, path: Path) -> list[tuple[bool, int, str]]:
        return natural_key(path.relative_to(self.root).as_posix())


def check_label(label: str) -> None:
    """Raise `RejectedFileError` for a class name that cannot name a folder."""
    if not label.strip(". "):
        raise RejectedFileError("no label")
    if len(label) > MAX_LABEL:
        raise RejectedFileError(f"label of {len(label)} characters: at most {MAX_LABEL} are possible")


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts `x_2` before `x_10`; different names never compare equal."""
    parts = re.split(r"(\d+)", name)
    keys = [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
    return [*keys, (True, 0, name)]


def check_annotated_size(
    annotated: tuple[int, int] | None, size: tuple[int, int], image: Path | None = None
) -> None:
    """Check that annotations were drawn for an image of this size.

    Args:
        annotated: (height, width) that they were drawn for; None: unknown.
        size: (height, width) of the image, upright.
        image: its file, to explain a wrong size.

    Raises:
        RejectedFileError: the two differ.
    """
    if annotated is None or annotated == size:
        return
    found = f"annotated as {annotated[1]}x{annotated[0]} pixels, but the image has {size[1]}x{size[0]}"
    if annotated == size[::-1] and image is not None and is_turned(image):
        found += ": the annotations fit the stored pixels only, which EXIF turns; save the image upright"
    raise RejectedFileError(found)


def draw_runs(mask: RunLengths, size: tuple[int, int]) -> U8:
    """Draw run lengths as a mask of `size` (height, width), `uint8 [H, W]` of {0, 255}.

    Raises:
        RejectedFileError: a run exceeds the image, or the mask was drawn for another size.
    """
    check_annotated_size(mask.size, size)
    height, width = size
    flat = np.zeros(height * width, dtype=np.uint8)
    for start, length in mask.runs:
        if start < 1 or length < 1 or start - 1 + length > flat.size:
            raise RejectedFileError(f"run {start} {length} leaves an image of {size} pixels")
        flat[start - 1 : start - 1 + length] = 255
    return flat.reshape(width, height).T.copy()
