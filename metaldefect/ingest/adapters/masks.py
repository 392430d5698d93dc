"""Which mask belongs to which image: one rule for file names, for every layout that keeps masks as files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from metaldefect.errors import RejectedFileError
from metaldefect.ingest.adapters.files import DatasetFiles

MASK_ENDING = "_mask"

Placed = tuple[str, Path]  # folder that image and mask share, relative and with forward slashes; file


def is_mask_name(path: Path) -> bool:
    """Whether a file beside images calls itself a mask: `<stem>_mask.<any image suffix>`, in any case."""
    return path.stem.lower().endswith(MASK_ENDING)


def folder_of(root: Path, path: Path) -> str:
    """The folder of a file below `root`, with forward slashes."""
    return path.parent.relative_to(root).as_posix()


class MaskNames:
    """Finds the mask of an image by name, ignoring case and the mask's image suffix.

    The mask of `a.jpg` is called `a` or `a_mask`. Where `a.jpg` and `a.png` are two images, such a name fits
    both, so only `a.jpg` and `a.jpg_mask` (plus the mask's own suffix) say which one is meant.

    Args:
        files: the dataset, whose `notes` and rejected files this adds to.
        images: every image, each with its folder.
        masks: every mask file, each with the folder of its image.
        ending: what a mask's stem may add to its image's.

    Attributes:
        without_image: number of masks that fit no image.
        ambiguous: images that share the name of a mask with another image.
    """

    def __init__(
        self,
        files: DatasetFiles,
        images: Iterable[Placed],
        masks: Iterable[Placed],
        ending: str = MASK_ENDING,
    ) -> None:
        self._files, self._ending = files, ending
        self.without_image = 0
        self.ambiguous: set[Path] = set()
        self._images: dict[tuple[str, str], list[Path]] = defaultdict(list)
        for folder, path in images:
            self._images[folder.lower(), path.stem.lower()].append(path)
            self._images[folder.lower(), path.name.lower()].append(path)
        self._of: dict[Path, list[Path]] = defaultdict(list)
        for folder, path in masks:
            self._assign(folder.lower(), path)

    def _assign(self, folder: str, mask: Path) -> None:
        stem = mask.stem.lower()
        for name in dict.fromkeys((stem, stem.removesuffix(self._ending))):
            found = self._images.get((folder, name), [])
            if len(found) == 1:
                self._of[found[0]].append(mask)
                return
            if found:
                self.ambiguous.update(found)
                names = " and ".join(path.name for path in found)
                self._files.note(
                    mask,
                    f"the name of this mask fits {names}, so it is used for neither: call it"
                    f" {found[0].name}{self._ending}{mask.suffix} if it is the mask of {found[0].name}",
                )
                return
        self.without_image += 1
        self._files.reject(mask, "mask without its image")

    def find(self, image: Path) -> Path | None:
        """The mask of an image, None if it has none.

        Raises:
            RejectedFileError: two files are named as its mask; both are rejected too.
        """
        found = self._of.get(image, [])
        if len(found) > 1:
            for mask in found:
                self._files.reject(mask, f"one of {len(found)} masks of {image.name}; keep one")
            names = ", ".join(self._files.relative(path) for path in found)
            raise RejectedFileError(f"{len(found)} files are named as its mask: {names}; keep one")
        return found[0] if found else None

    def paired(self, images: Iterable[Path]) -> Iterator[tuple[Path, Path | None]]:
        """Each image with its mask, or None; rejects images for which two files are named as the mask."""
        for image in images:
            try:
                mask = self.find(image)
            except RejectedFileError as error:
                self._files.reject(image, str(error))
            else:
                yield image, mask
