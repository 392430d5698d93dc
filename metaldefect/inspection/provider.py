"""Providers: one interface to the anomaly detector's images, in splits that share no scene.

`train`, `validation` and `canvases` hold only normal images. `defects` holds inserted defects for choosing
map weights, because no choice may depend on test images. `test` holds normal images and anomalies, with
masks where they are known. Providers load or draw each image on access, so creating one is cheap, however
many images it has.
"""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.images import U8, Channels, UnreadableImageError, read_grey, read_image
from metaldefect.inspection.layout import CANVAS, GOOD, INSERTIONS, mask_path, read_levels, read_scenes

Mask = NDArray[np.bool_]


class InspectionImage(NamedTuple):
    """An image from the inspection line.

    `image` is `uint8 [H, W]`, or `[H, W, 3]` from a provider of three channels; `mask` is `bool [H, W]`, None
    for a normal image and for a defect whose pixels are not known; `label` is `good` or the kind of defect;
    `name` is unique within its split. Images of one `scene` show the same piece of metal, so they are not
    independent.
    """

    image: U8
    mask: Mask | None
    label: str
    name: str
    scene: str


class InspectionImages(Sequence[InspectionImage]):
    """A lazy sequence of images: every access loads or draws the image again."""

    def __init__(
        self, load: Sequence[Callable[[], InspectionImage]] = (), labels: Sequence[str] = ()
    ) -> None:
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
    """The images that an anomaly detector needs for training, calibration and test.

    `levels` says how images with more than 8 bits were read; None: there were none. `channels` is 1 for grey
    images and 3 for colour.
    """

    levels: Levels | None = None
    channels: Channels = 1

    @abstractmethod
    def train(self) -> InspectionImages:
        """Normal images to train on."""

    @abstractmethod
    def validation(self) -> InspectionImages:
        """Normal images that calibrate the anomaly maps and the threshold."""

    def canvases(self) -> InspectionImages:
        """Normal images to insert defects into; empty by default."""
        return InspectionImages()

    def defects(self) -> InspectionImages:
        """Defects inserted into canvases, for choosing the map weights; empty by default."""
        return InspectionImages()

    @abstractmethod
    def test(self) -> InspectionImages:
        """Normal images first, then anomalies, kind by kind; either may be missing."""


class RealDatasetProvider(DatasetProvider):
    """The images of a folder that `metaldefect.ingest.inspection.build_inspection` prepared.

    Each method checks only its own split.

    Args:
        root: the prepared folder.
        channels: 1 to read all images as grey, 3 to read them in colour.

    Raises:
        UserError: the folder was not prepared, a split is missing or empty, an image has no scene, or a
            mask has another size than its image. Test images and masks may be missing.
        UnreadableImageError: a file is not an image.
    """

    def __init__(self, root: Path | str, channels: Channels = 1) -> None:
        self.root, self.channels = Path(root), channels
        self.levels = read_levels(self.root)

    @cached_property
    def scenes(self) -> dict[str, str]:
        """The scene of every image, by its path inside `root`."""
        return read_scenes(self.root)

    def train(self) -> InspectionImages:
        return self._normal("train")

    def validation(self) -> InspectionImages:
        return self._normal("validation")

    def canvases(self) -> InspectionImages:
        return self._normal(CANVAS) if (self.root / CANVAS / GOOD).is_dir() else InspectionImages()

    def test(self) -> InspectionImages:
        images = self.normal_test()
        if not (self.root / "test").is_dir():
            return images
        kinds = sorted(path for path in (self.root / "test").iterdir() if path.is_dir())
        paths = [path for kind in kinds if kind.name != GOOD for path in images_in(kind)]
        return images + anomalies(
            ((path, self._mask(path), path.parent.name, self._scene(path)) for path in paths), self.channels
        )

    def _mask(self, image: Path) -> Path | None:
        path = mask_path(self.root, image.parent.name, image.stem)
        return path if path.is_file() else None

    def normal_test(self) -> InspectionImages:
        """The normal images of the test split; empty if there are none."""
        return self._normal("test") if (self.root / "test" / GOOD).is_dir() else InspectionImages()

    def scenes_of(self, split: str) -> set[str]:
        """The scenes of a split."""
        return {scene for path, scene in self.scenes.items() if path.split("/")[0] == split}

    def _normal(self, split: str) -> InspectionImages:
        folder = self.root / split / GOOD
        paths = images_in(folder)
        if not paths:
            raise UserError(f"{folder} holds no image: prepare the dataset again")
        load = [partial(read_normal, path, self._scene(path), self.channels) for path in paths]
        return InspectionImages(load, [GOOD] * len(load))

    def _scene(self, path: Path) -> str:
        inside = path.relative_to(self.root).as_posix()
        if inside not in self.scenes:
            raise UserError(f"{path} was added to a prepared dataset: add it to the source and prepare again")
        return self.scenes[inside]


class GeneratedDatasetProvider(DatasetProvider):
    """Normal images of a prepared dataset, and defects inserted into its canvases.

    One part of the insertions serves to choose the map weights (`defects`); the other forms the test set,
    together with the dataset's normal test images. The two parts share no canvas. A defect to choose by may
    lie on a validation normal, one to test on a test normal: neither has been trained on.

    Args:
        normal_root: the prepared dataset, as for `RealDatasetProvider`.
        inserted_root: a folder that `metaldefect.synthesis.insertion.write_insertions` wrote.
        channels: as for `RealDatasetProvider`.

    Raises:
        UserError: as `RealDatasetProvider`; or a canvas shows a scene of a split that its defects must not
            share; or `defects` and `test` share a canvas.
    """

    def __init__(self, normal_root: Path | str, inserted_root: Path | str, channels: Channels = 1) -> None:
        self._normal = RealDatasetProvider(normal_root, channels)
        self.levels, self.channels = self._normal.levels, channels
        self.inserted_root = Path(inserted_root)
        self._insertions = read_insertions(self.inserted_root)
        scenes = {split: {row["scene"] for row in rows} for split, rows in self._insertions.items()}
        for purpose, foreign in (("validation", ("train", "test")), ("test", ("train", "validation"))):
            for split in foreign:
                if shared := scenes[purpose] & self._normal.scenes_of(split):
                    raise UserError(
                        f"{self.inserted_root}: canvases of {purpose} defects show scenes of {split}:"
                        f" {sorted(shared)[:3]}"
                    )
        if shared := scenes["validation"] & scenes["test"]:
            raise UserError(
                f"{self.inserted_root}: validation and test defects share canvases: {sorted(shared)[:3]}"
            )

    def train(self) -> InspectionImages:
        return self._normal.train()

    def validation(self) -> InspectionImages:
        return self._normal.validation()

    def canvases(self) -> InspectionImages:
        return self._normal.canvases()

    def defects(self) -> InspectionImages:
        return self._inserted("validation")

    def test(self) -> InspectionImages:
        return self._normal.normal_test() + self._inserted("test")

    def test_canvases(self) -> list[Path]:
        """The normal image that each defect of `test` was inserted into, in the order of the defects."""
        root = self._normal.root
        return [next(root.glob(f"{row['canvas']}.*")) for row in self._insertions["test"]]

    def _inserted(self, split: str) -> InspectionImages:
        root = self.inserted_root
        found = (
            (root / row["path"], root / row["mask"], row["label"], row["scene"])
            for row in self._insertions[split]
        )
        return anomalies(found, self.channels)


def read_insertions(root: Path) -> dict[str, list[dict[str, str]]]:
    """Read the records of visible insertions by split, sorted by label and path.

    Raises:
        UserError: `root` has no record of insertions.
    """
    path = root / INSERTIONS
    if not path.is_file():
        raise UserError(f"{path} does not exist: insert defects first (stage `synthesize`)")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["path"]]
    rows.sort(key=lambda row: (row["label"], row["path"]))
    return {split: [row for row in rows if row["split"] == split] for split in ("validation", "test")}


def images_in(folder: Path) -> list[Path]:
    """The images directly inside a folder of a prepared dataset, sorted by name."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: is {folder.parents[1]} a prepared dataset?")
    return sorted(folder.glob("*.png"))


def anomalies(files: Iterable[tuple[Path, Path | None, str, str]], channels: Channels) -> InspectionImages:
    """Lazy anomalies from tuples (image, mask or None, label, scene), after checking every mask.

    Raises:
        UserError: from `check_mask`.
    """
    load, labels = [], []
    for image, mask, label, scene in files:
        if mask is not None:
            check_mask(image, mask)
        load.append(partial(read_anomaly, image, mask, label, scene, channels))
        labels.append(label)
    return InspectionImages(load, labels)


def check_mask(image: Path, mask: Path) -> None:
    """Check, from the file headers alone, that an anomaly has a mask of its size.

    Raises:
        UserError: the mask is missing or has another size.
    """
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


def read_normal(path: Path, scene: str, channels: Channels) -> InspectionImage:
    """Read a normal image."""
    return InspectionImage(read_image(path, channels), None, GOOD, f"{GOOD}/{path.stem}", scene)


def read_anomaly(
    path: Path, mask: Path | None, label: str, scene: str, channels: Channels
) -> InspectionImage:
    """Read an anomaly and its mask, if there is one; mask values above 127 mark the defect."""
    marked = None if mask is None else np.greater(read_grey(mask), 127)
    return InspectionImage(read_image(path, channels), marked, label, f"{label}/{path.stem}", scene)
