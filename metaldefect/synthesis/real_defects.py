"""Find the user's real masked defects: the material of transplants, and shapes for drawn defects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaldefect.artifacts import sha256_file
from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.image_files import IMAGE_SUFFIXES, Levels, is_hidden_name
from metaldefect.image_files import read_mask as read_mask_file
from metaldefect.ingest.adapters import RunLengths, read_dataset
from metaldefect.ingest.adapters.files import draw_runs
from metaldefect.ingest.levels import find_levels
from metaldefect.ingest.loading import split_rows
from metaldefect.ingest.samples import TABLE_NAME
from metaldefect.inspection.layout import GOOD
from metaldefect.synthesis.inpainting import Mask
from metaldefect.synthesis.photographs import Photograph, grey_of, read_photograph
from metaldefect.synthesis.transplant import Defect, cut_defects

CHOICES = 6  # random defects of which the one that suits the canvas best is taken
SIMILAR = 1.6  # ratio of grey levels up to which two metals count as alike
KEPT = 128  # photographs whose defects stay in memory


class MaskedImage(NamedTuple):
    """A photograph with the mask of its defects."""

    image: Path
    mask: Path | RunLengths


def find_masked_images(
    root: Path, label: str, masks: Path | None = None, adapter: str | None = None
) -> list[MaskedImage]:
    """The masked photographs of a class, in a fixed order.

    Args:
        root: with `masks`, a folder of photographs; else a merged dataset (`samples.parquet`, of which only
            the training split is read), or a dataset in a known layout.
        label: the class. Folders given with `masks` may hold one folder per class.
        masks: folder with a mask `<stem>.*` or `<stem>_mask.*` for each photograph.
        adapter: the layout; None: MVTec AD's if the dataset has its `train/good`, else one folder per class.

    Raises:
        UserError: a folder is missing, or holds no masked photograph of the class.
    """
    if not root.is_dir():
        raise UserError(f"{root} does not exist: name the folder of photographs with defects")
    if masks is not None:
        return paired_files(class_folder(root, label), class_folder(masks, label))
    if (root / TABLE_NAME).is_file():
        rows = split_rows(root, "train")
        rows = rows[rows["mask_path"].notna()]
        found = {
            str(name): [
                MaskedImage(root / image, root / mask)
                for image, mask in zip(part["path"], part["mask_path"], strict=True)
            ]
            for name, part in rows.groupby("label")
        }
    else:
        layout = adapter or ("mvtec_ad" if (root / "train" / GOOD).is_dir() else "folder")
        samples, _ = read_dataset(layout, root)
        found = {}
        for sample in samples:
            if sample.mask is not None and not sample.is_normal:
                found.setdefault(sample.source_label, []).append(MaskedImage(sample.path, sample.mask))
    if label not in found:
        known = ", ".join(sorted(found)) or "none"
        raise UserError(f"{root} holds no masked photograph of {label!r}; classes with masks: {known}")
    return found[label]


def class_folder(root: Path, label: str) -> Path:
    """The folder of a class inside `root`, or `root` itself if it has none."""
    return root / label if (root / label).is_dir() else root


def paired_files(images: Path, masks: Path) -> list[MaskedImage]:
    """Pairs of a photograph and its mask by file name; raises `UserError` if there are none."""
    pairs = match_by_stem(image_files(images), masks_by_stem(masks))
    if not pairs:
        raise UserError(f"no photograph in {images} has a mask of its name in {masks}")
    return [MaskedImage(image, mask) for image, mask in pairs.items()]


def match_by_stem(images: Sequence[Path], masks: Mapping[str, Path]) -> dict[Path, Path]:
    """The mask of each photograph that has one; no file is its own mask.

    Args:
        images: photographs, with masks among them where both share a folder.
        masks: see `masks_by_stem`.
    """
    return {
        path: mask
        for path in images
        if (mask := masks.get(path.stem)) is not None and mask.resolve() != path.resolve()
    }


def unmasked_photographs(root: Path, label: str, masks: Path) -> list[Path]:
    """The photographs of a class that have no mask, sorted by name; arguments and errors as for
    `find_masked_images`."""
    by_stem = masks_by_stem(class_folder(masks, label))
    images = image_files(class_folder(root, label))
    pairs = match_by_stem(images, by_stem)
    # Photographs and masks may share a folder
    named_masks = [mask for stem, mask in by_stem.items() if mask.stem != stem]
    known = {path.resolve() for path in (*pairs, *pairs.values(), *named_masks)}
    return [path for path in images if path.resolve() not in known]


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """The masks in a folder by the stem of their photograph; raises `UserError` if it does not exist."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name the folder of the defects' masks")
    return {path.stem.removesuffix("_mask"): path for path in image_files(folder)}


def image_files(folder: Path) -> list[Path]:
    """The image files directly inside a folder, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden_name(path.name)
    )


def read_mask(mask: Path | RunLengths, shape: tuple[int, int]) -> Mask:
    """Read a mask, `bool [H, W]`, by the coding that `metaldefect.image_files.defect_pixels` states.

    Raises:
        UserError: the mask cannot be read, has an unclear coding, or another size than its photograph.
    """
    if isinstance(mask, RunLengths):
        return draw_runs(mask, shape) > 0
    try:
        return read_mask_file(mask, shape) > 0
    except RejectedFileError as error:
        raise UserError(f"{printable(str(mask))}: {error}") from error


class DefectLibrary:
    """The real defects of a class, cut out of their photographs when they are needed.

    Args:
        files: masked photographs of the class.
        levels: how those with more than 8 bits are read; None: by their bit depth (see `find_levels`).
    """

    def __init__(self, files: Sequence[MaskedImage], levels: Levels | None = None) -> None:
        self.files = tuple(files)
        self.depth = levels or find_levels([file.image for file in self.files])
        self.defects_of = lru_cache(maxsize=KEPT)(self._cut)

    def _cut(self, index: int) -> list[Defect]:
        """The defects of one photograph."""
        file = self.files[index]
        photograph = read_photograph(file.image, self.depth)
        return cut_defects(photograph, read_mask(file.mask, photograph.shape), file.image.as_posix())

    def choose(self, rng: np.random.Generator, canvas: Photograph) -> Defect:
        """A random defect, preferably whole and from metal as bright as the canvas.

        Raises:
            UserError: no photograph of the class has a defect that can be moved.
        """
        level = float(np.median(grey_of(canvas.levels((slice(None, None, 8), slice(None, None, 8))))))
        found: list[Defect] = []
        for index in rng.permutation(len(self.files)):
            defects = self.defects_of(int(index))
            if defects:
                found.append(defects[int(rng.integers(len(defects)))])
            if len(found) == CHOICES:
                break
        if not found:
            raise UserError(
                f"none of {len(self.files)} photographs such as {self.files[0].image} has a defect to move:"
                " their masks are empty, specks, or cover nearly everything"
            )
        suits = [item for item in found if not item.cut and similar(item.level, level)]
        return (suits or found)[0]

    def masks(self) -> list[Mask]:
        """The shapes of all defects, except those that their photograph's border cuts off."""
        every = [defect for index in range(len(self.files)) for defect in self.defects_of(index)]
        return [defect.mask for defect in every if not defect.cut] or [defect.mask for defect in every]

    def digest(self) -> str:
        """SHA-256 of the files' names and bytes."""
        found = hashlib.sha256()
        for image, mask in self.files:
            found.update(f"{image.name} {sha256_file(image)}".encode())
            found.update((repr(mask) if isinstance(mask, RunLengths) else sha256_file(mask)).encode())
        return found.hexdigest()


def similar(first: float, second: float) -> bool:
    """Whether two grey levels differ by less than a factor of 1.6."""
    low, high = sorted((max(first, 1.0), max(second, 1.0)))
    return high / low < SIMILAR
