"""Where the anomaly detector's images come from: real, procedural or generated, behind one interface.

A provider gives three sequences of images: `train` and `validation` hold normal images only (the
threshold must never see the test images), `test` holds normal ones and anomalies with their masks.
Images are loaded or drawn when they are asked for, so a provider of any length costs nothing to make.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.images import UnreadableImageError, read_grey, resize
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image, keyed_generator
from metaldefect.procedural.textures import U8, Finish, Mask

GOOD = "good"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
HELD_OUT = 8  # one normal image in eight validates where a dataset has no validation split


class InspectionImage(NamedTuple):
    """An image of the inspection line.

    `image` is `uint8 [H, W]`; `mask` is `bool [H, W]`, None on a normal image; `label` is `good` or the kind
    of defect; `name` is unique in its split.
    """

    image: U8
    mask: Mask | None
    label: str
    name: str


class InspectionImages(Sequence[InspectionImage]):
    """A sequence of images, each loaded or drawn anew whenever it is asked for."""

    def __init__(self, load: Sequence[Callable[[], InspectionImage]], labels: Sequence[str]) -> None:
        self._load = load
        self.labels = tuple(labels)

    def __len__(self) -> int:
        return len(self._load)

    @overload
    def __getitem__(self, index: int) -> InspectionImage: ...
    @overload
    def __getitem__(self, index: slice) -> InspectionImages: ...
    def __getitem__(self, index: int | slice) -> InspectionImage | InspectionImages:
        if isinstance(index, slice):
            return InspectionImages(self._load[index], self.labels[index])
        return self._load[index]()

    def __add__(self, other: InspectionImages) -> InspectionImages:
        return InspectionImages([*self._load, *other._load], [*self.labels, *other.labels])


class DatasetProvider(ABC):
    """The images that an anomaly detector trains on, calibrates on and is tested on."""

    @abstractmethod
    def train(self) -> InspectionImages:
        """Normal images to train on."""

    @abstractmethod
    def validation(self) -> InspectionImages:
        """Normal images, not in `train`, that calibrate the anomaly map and the threshold."""

    @abstractmethod
    def test(self) -> InspectionImages:
        """Normal images first, then anomalies with their masks, kind by kind."""


class RealDatasetProvider(DatasetProvider):
    """A category folder in MVTec AD's layout.

    `train/good`, `test/good`, `test/<kind>` and `ground_truth/<kind>/<stem>_mask.png`; `validation/good`
    where there, else every eighth image of `train/good`. Everything is checked here, before any training.

    Args:
        root: the category folder.
        size: side in pixels that images (antialiased) and masks (nearest) are resized to; None keeps them.

    Raises:
        UserError: no `train/good`, no `test`, or an anomaly without its mask; or no normal image to train
            on or to validate on, or a mask of another size than its image.
        UnreadableImageError: a file that is no image.
    """

    def __init__(self, root: Path | str, size: int | None = None) -> None:
        self.root, self.size = Path(root), size
        normals = images_in(self.root / "train" / GOOD)
        if not normals:
            raise UserError(f"{self.root / 'train' / GOOD} holds no image to train on")
        self._train, self._validation = split_validation(self.root, normals)
        self._test = MVTecTest(self.root, size)

    def train(self) -> InspectionImages:
        return normal_images(self._train, self.size)

    def validation(self) -> InspectionImages:
        return normal_images(self._validation, self.size)

    def test(self) -> InspectionImages:
        return self._test.normal + self._test.anomalies


@dataclass(frozen=True)
class SyntheticCounts:
    """How many images a `SyntheticDatasetProvider` has: `test_anomalies` of each kind."""

    train: int
    validation: int
    test_normal: int
    test_anomalies: int

    def __post_init__(self) -> None:
        if self.train < 1:
            raise UserError(f"{self.train} images to train on: at least 1 is needed")
        if self.validation < 1:
            raise UserError(f"{self.validation} normal images to validate on: at least 1 is needed")


class SyntheticDatasetProvider(DatasetProvider):
    """Procedural metal with scratches, contamination and misplaced objects, drawn when asked for.

    Image k of a split is a function of `seed`, the split and k alone: more images change none of the
    earlier ones.

    Args:
        seed: non-negative.
        counts: sizes of the splits.
        size: side of the images in pixels, at least 16.
        finish: the metal; None mixes all finishes, as on a line that changes its product.
    """

    def __init__(self, seed: int, counts: SyntheticCounts, size: int, finish: Finish | None = None) -> None:
        self.seed, self.counts, self.size, self.finish = seed, counts, size, finish

    def train(self) -> InspectionImages:
        return self._normal("train", self.counts.train)

    def validation(self) -> InspectionImages:
        return self._normal("validation", self.counts.validation)

    def test(self) -> InspectionImages:
        drawn = self._normal("test", self.counts.test_normal)
        for kind in ANOMALIES:
            load = [partial(self._draw, "test", kind, k) for k in range(self.counts.test_anomalies)]
            drawn += InspectionImages(load, [kind] * len(load))
        return drawn

    def _normal(self, split: str, count: int) -> InspectionImages:
        return InspectionImages([partial(self._draw, split, GOOD, k) for k in range(count)], [GOOD] * count)

    def _draw(self, split: str, label: str, index: int) -> InspectionImage:
        rng = keyed_generator(self.seed, "synthetic", split, label, index)
        name = f"{label}/{index:04d}"
        if label == GOOD:
            return InspectionImage(generate_normal_image(rng, self.size, self.finish), None, label, name)
        image, mask = generate_anomalous_image(label, rng, self.size, self.finish)
        return InspectionImage(image, mask, label, name)


class GeneratedDatasetProvider(DatasetProvider):
    """Normal images of one folder, tested on generated defects inserted in such images, of another.

    Both folders have MVTec AD's layout; of `inserted_root` only `test/<kind>`, `ground_truth/<kind>` and,
    where there, `test/good` (the normal images that went through the generator's own decoder) are read.
    Without the latter the normal test images are those of `normal_root`.

    Raises:
        As `RealDatasetProvider`, and UserError when `inserted_root` holds no defect.
    """

    def __init__(self, normal_root: Path | str, inserted_root: Path | str, size: int | None = None) -> None:
        self._normal = RealDatasetProvider(normal_root, size)
        self._inserted = MVTecTest(Path(inserted_root), size)
        if not self._inserted.anomalies:
            raise UserError(f"{Path(inserted_root) / 'test'} holds no image with an inserted defect")

    def train(self) -> InspectionImages:
        return self._normal.train()

    def validation(self) -> InspectionImages:
        return self._normal.validation()

    def test(self) -> InspectionImages:
        normal = self._inserted.normal or self._normal._test.normal
        return normal + self._inserted.anomalies


class MVTecTest:
    """The test split of a folder in MVTec AD's layout: `normal` and `anomalies`, checked."""

    def __init__(self, root: Path, size: int | None) -> None:
        folder = root / "test"
        if not folder.is_dir():
            raise UserError(f"{root} has no folder test: is it a category in MVTec AD's layout?")
        good = folder / GOOD
        self.normal = normal_images(images_in(good) if good.is_dir() else [], size)
        load, labels = [], []
        for kind in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != GOOD):
            for image in images_in(kind):
                mask = root / "ground_truth" / kind.name / f"{image.stem}_mask.png"
                check_mask(image, mask)
                load.append(partial(read_anomaly, image, mask, size))
                labels.append(kind.name)
        self.anomalies = InspectionImages(load, labels)


def split_validation(root: Path, normals: list[Path]) -> tuple[list[Path], list[Path]]:
    """Divide normal images into (train, validation), by `validation/good` where it is there."""
    folder = root / "validation" / GOOD
    if folder.is_dir():
        validation = images_in(folder)
        if not validation:
            raise UserError(
                f"{folder} holds no image: add normal ones, or remove it to hold out some of train"
            )
        return normals, validation
    if len(normals) < 2:
        raise UserError(
            f"{root} has no normal image to validate on:"
            f" add validation/{GOOD}, or a second image to train/{GOOD}"
        )
    held_out = set(normals[HELD_OUT - 1 :: HELD_OUT] or normals[-1:])
    return [path for path in normals if path not in held_out], sorted(held_out)


def images_in(folder: Path) -> list[Path]:
    """The image files directly in `folder`, sorted by name; a missing folder is an error."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: is {folder.parents[1]} in MVTec AD's layout?")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def check_mask(image: Path, mask: Path) -> None:
    """Refuse an anomaly without a mask, or with a mask of another size; reads the headers only."""
    if not mask.is_file():
        raise UserError(f"{image} has no mask: {mask} does not exist")
    if (image_size := header_size(image)) != (mask_size := header_size(mask)):
        raise UserError(
            f"{mask} is {mask_size[0]} x {mask_size[1]} pixels,"
            f" but its image {image} is {image_size[0]} x {image_size[1]}"
        )


def header_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableImageError(f"{path}: {error}") from error


def normal_images(paths: list[Path], size: int | None) -> InspectionImages:
    """Normal images read from files."""
    return InspectionImages([partial(read_normal, path, size) for path in paths], [GOOD] * len(paths))


def read_normal(path: Path, size: int | None) -> InspectionImage:
    """Read a normal image."""
    return InspectionImage(read_grey(path, size), None, GOOD, f"{GOOD}/{path.stem}")


def read_anomaly(path: Path, mask_path: Path, size: int | None) -> InspectionImage:
    """Read an anomaly and its mask; mask values above 127 count."""
    mask = read_grey(mask_path)
    if size is not None:
        mask = resize(mask, size, nearest=True)
    return InspectionImage(
        read_grey(path, size), np.greater(mask, 127), path.parent.name, f"{path.parent.name}/{path.stem}"
    )
