"""Tiles of large images: all of a held-out image's, some of a training image's, each in its image's scene."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from metaldefect.efficientad.calibration import CalibrationImages
from metaldefect.efficientad.evaluation import score_images
from metaldefect.efficientad.held_out import of_first_wholes
from metaldefect.errors import UserError
from metaldefect.inspection import tiles
from metaldefect.inspection.provider import DatasetProvider, InspectionImage, InspectionImages
from metaldefect.inspection.tiles import TiledProvider, number_wholes


def picture(number: int, split: str) -> InspectionImage:
    """The image says where it is from: every pixel's level is the number of its image."""
    image = np.full((100, 220), number, np.uint8)
    image[0, 0] = 255
    return InspectionImage(image, None, "good", f"good/{number:03d}", f"{split}{number}")


def pictures(split: str, count: int) -> InspectionImages:
    return InspectionImages([partial(picture, k, split) for k in range(count)], ["good"] * count)


class Line(DatasetProvider):
    """A line with large images."""

    def train(self) -> InspectionImages:
        return pictures("train", 3)

    def validation(self) -> InspectionImages:
        return pictures("validation", 6)

    def canvases(self) -> InspectionImages:
        return pictures("canvas", 2)

    def test(self) -> InspectionImages:
        return pictures("test", 2)


def test_held_out_images_are_cut_whole_and_training_images_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TRAINING_TILES", 6)
    monkeypatch.setattr(tiles, "HELD_OUT_TILES", 20)
    provider = TiledProvider(Line(), (64, 80), 20, tmp_path / "tiles")
    train, validation = list(provider.train()), list(provider.validation())
    assert {item.image.shape for item in [*train, *validation]} == {(64, 80)}
    # Two rows by (220 - 20) / 60 -> 4 columns; two random tiles of each training image
    assert sorted(item.scene for item in train) == ["train0"] * 2 + ["train1"] * 2 + ["train2"] * 2
    assert sorted({item.scene for item in validation}) == [f"validation{k}" for k in range(4)]
    assert len(validation) == 4 * 8
    assert provider.notes == ["4 of 6 validation images make 32 tiles, the others are not needed"]
    assert len({item.name for item in validation}) == 32
    for item in validation:
        assert item.image[20, 20] == int(item.scene[-1])
    assert sum(item.image[0, 0] == 255 for item in validation) == 4, "one corner of each image"
    assert [item.scene for item in validation] != sorted(item.scene for item in validation)
    assert provider.test()[0].image.shape == (100, 220)


def test_a_whole_image_gets_its_largest_tiles_score(tmp_path: Path) -> None:
    provider = TiledProvider(Line(), (64, 80), 20, tmp_path / "tiles")
    items = list(provider.canvases())
    images = CalibrationImages.of(items, [], (64, 80))
    scores = [float(index) for index in reversed(range(len(items)))]  # the first tile has the largest
    found = images.whole_scores(scores, [0.5])
    assert sorted(found.scenes) == ["canvas0", "canvas1"]
    for scene, score in zip(found.scenes, found.normals, strict=True):
        assert score == max(s for s, item in zip(scores, items, strict=True) if item.scene == scene)
    assert len(of_first_wholes(items, 1)) == 8
    whole = list(Line().canvases())
    assert number_wholes(whole) == [0, 1]
    assert of_first_wholes(whole, 1) == whole[:1]


def test_inserted_defects_are_not_for_tiles(tmp_path: Path) -> None:
    class Inserted(Line):
        def defects(self) -> InspectionImages:
            return pictures("defect", 1)

    with pytest.raises(UserError, match="train with --source real"):
        TiledProvider(Inserted(), (64, 80), 20, tmp_path / "tiles")


def test_a_test_image_is_scored_in_tiles_and_stitched() -> None:
    image = np.zeros((100, 220), np.uint8)
    image[80, 200] = 90
    item = InspectionImage(image, None, "good", "good/0", "a")
    seen = []

    def detect(tile: np.ndarray) -> tuple[float, np.ndarray]:
        seen.append(tile.shape)
        return float(tile.max()), tile.astype(np.float32)

    (scored,) = score_images(detect, [item], (64, 80), "score", tiles=20)
    assert seen == [(64, 80)] * 8
    assert scored.score == 90.0
    np.testing.assert_allclose(scored.anomaly_map, image, atol=1e-4)
