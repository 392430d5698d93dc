"""Tiles of large images to train and calibrate on: shrinking the images would lose small defects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from metaldefect.artifacts import atomic_directory
from metaldefect.errors import UserError
from metaldefect.images import Channels, read_image, write_png
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import DatasetProvider, InspectionImage, InspectionImages
from metaldefect.tiling import cut_tiles, plan_tiles

TRAINING_TILES = 4000  # more would take longer to describe than to train on
# Images are held out whole, because a whole image gets one score: as many as have so many tiles, but a few
HELD_OUT_TILES, FEWEST_HELD_OUT = 600, 4
MARK = "#tile"  # between an image's name and the number of its tile

Named = tuple[str, str]  # name and scene of a tile


class TiledProvider(DatasetProvider):
    """The images of another provider: the normal ones in tiles, those of the test whole.

    A tile belongs to the scene of its image. Tiles lie as PNG files in a folder, because cutting one out of
    a large image at every step would read the whole image at every step.

    Attributes:
        notes: which held-out images are left out because the others have tiles enough.

    Args:
        whole: the provider; it must not have inserted defects.
        tile: height and width of the tiles, px.
        overlap: pixels that neighbouring tiles share.
        folder: for the tiles; replaced.

    Raises:
        UserError: the overlap is more than half a tile, or the provider has inserted defects.
    """

    def __init__(self, whole: DatasetProvider, tile: tuple[int, int], overlap: int, folder: Path) -> None:
        if len(whole.defects()):
            raise UserError("tiles: defects were inserted into whole images; train with --source real")
        self.whole, self.tile, self.overlap = whole, tile, overlap
        self.levels, self.channels = whole.levels, whole.channels
        self.notes: list[str] = []
        train = whole.train()
        with atomic_directory(folder) as new:
            names = {
                "train": self._write(train, new / "train", -(-TRAINING_TILES // len(train))),
                "validation": self._write(whole.validation(), new / "validation"),
                "canvases": self._write(whole.canvases(), new / "canvases"),
            }
        self._tiles = {
            split: read_tiles(folder / split, found, self.channels) for split, found in names.items()
        }

    def _write(self, images: InspectionImages, folder: Path, each: int | None = None) -> list[Named]:
        """Write tiles as `000000.png`, ...: `each` random ones of every image, or all of as many as fit."""
        found: list[Named] = []
        for number, item in enumerate(images):
            if each is None and number >= FEWEST_HELD_OUT and len(found) >= HELD_OUT_TILES:
                self.notes.append(
                    f"{number} of {len(images)} {folder.name} images make {len(found)} tiles, the others are"
                    " not needed"
                )
                break
            tiling = plan_tiles((item.image.shape[0], item.image.shape[1]), self.tile, self.overlap)
            chosen = np.random.default_rng(number).permutation(len(tiling))[:each]
            tiles = cut_tiles(item.image, tiling)
            for place in sorted(chosen.tolist()):
                write_png(folder / f"{len(found):06d}.png", tiles[place])
                found.append((f"{item.name}{MARK}{place}", item.scene))
        return found

    def train(self) -> InspectionImages:
        return self._tiles["train"]

    def validation(self) -> InspectionImages:
        return self._tiles["validation"]

    def canvases(self) -> InspectionImages:
        return self._tiles["canvases"]

    def test(self) -> InspectionImages:
        return self.whole.test()


def read_tiles(folder: Path, names: Sequence[Named], channels: Channels) -> InspectionImages:
    """Lazy tiles, by their names and scenes; neighbours in the sequence come from different images."""
    files = [(folder / f"{number:06d}.png", name, scene) for number, (name, scene) in enumerate(names)]
    order = np.random.default_rng(0).permutation(len(files)).tolist()
    load = [
        partial(read_tile, path, name, scene, channels) for path, name, scene in (files[k] for k in order)
    ]
    return InspectionImages(load, [GOOD] * len(load))


def read_tile(path: Path, name: str, scene: str, channels: Channels) -> InspectionImage:
    """Read one tile."""
    return InspectionImage(read_image(path, channels), None, GOOD, name, scene)


def number_wholes(images: Sequence[InspectionImage]) -> list[int]:
    """For each image the number of its whole: tiles of one image share it, any other image has its own."""
    numbers: dict[str | int, int] = {}
    keys = [
        f"{item.scene}/{item.name.partition(MARK)[0]}" if MARK in item.name else index
        for index, item in enumerate(images)
    ]
    return [numbers.setdefault(key, len(numbers)) for key in keys]
