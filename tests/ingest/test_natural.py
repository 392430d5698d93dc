"""Natural images: from a folder, or from inside the installed packages."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.images import UnreadableImageError
from metaldefect.ingest.natural import (
    CROPS_EACH,
    crop_of,
    evenly_spaced,
    natural_photographs,
    natural_source,
    packaged_photographs,
)


def load_natural_images(folder: Path | None, size: int, limit: int | None) -> np.ndarray:
    return np.stack([one.read() for one in natural_photographs(folder, size, limit)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photographs"
    (root / "b").mkdir(parents=True)
    for name, level in (("b/one.png", 10), ("a.jpg", 60), ("c.JPEG", 110), ("z.png", 160)):
        pixels = np.full((40, 60, 3), level, np.uint8)
        pixels[:, :10], pixels[:, 50:] = 255, 255  # outside the centre crop
        Image.fromarray(pixels).save(root / name, quality=100)
    (root / "notes.txt").write_text("no image")
    return root


def test_folder_is_read_recursively_in_sorted_order_with_centre_crops(folder: Path) -> None:
    images = load_natural_images(folder, 16, None)
    assert images.shape == (4, 16, 16, 3)
    assert images.dtype == np.uint8
    assert images[:, 8, 8, 0].tolist() == [60, 10, 110, 160]
    assert images.std(axis=(1, 2)).max() < 1
    assert natural_source(folder) == "4 images in the folder photographs"


def test_limit_takes_evenly_spread_images(folder: Path) -> None:
    assert load_natural_images(folder, 16, 2)[:, 8, 8, 0].tolist() == [60, 110]
    assert len(load_natural_images(folder, 16, 100)) == 4
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, None) == [0, 1, 2]


def test_packaged_photographs_give_many_distinct_crops_without_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    images = load_natural_images(None, 256, None)
    assert images.shape[1:] == (256, 256, 3)
    assert len({image.tobytes() for image in images}) == len(images) >= 64
    assert len(images) == 14 * len(packaged_photographs())
    np.testing.assert_array_equal(images, load_natural_images(None, 256, None))
    assert natural_source(None).startswith(f"{len(packaged_photographs())} photographs inside scikit-image ")


def test_a_limit_on_packaged_photographs_still_sees_every_photograph() -> None:
    count = len(packaged_photographs())
    whole = load_natural_images(None, 32, None)
    few = load_natural_images(None, 32, count)
    np.testing.assert_array_equal(few, whole[::14])


def test_crops_at_three_magnifications() -> None:
    photograph = np.zeros((100, 200, 3), np.uint8)
    photograph[:, :, 0] = np.arange(200)
    crops = [crop_of(photograph, number, 10) for number in range(CROPS_EACH)]
    assert len(crops) == 1 + 4 + 9
    # a 100-pixel square at the left, 60-pixel ones at both ends, 42-pixel ones at both ends and between
    assert [crop[0, 0, 0] // 10 for crop in (crops[0], crops[1], crops[2])] == [0, 0, 14]
    assert [crops[index][0, 0, 0] for index in (5, 6, 7)] == pytest.approx([2, 81, 160], abs=2)


def test_errors_name_the_folder_or_file(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder of natural images"):
        load_natural_images(tmp_path / "nowhere", 16, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no \.bmp, \.jpeg, \.jpg, \.png, \.tif, \.tiff file"):
        natural_source(tmp_path / "empty")
    with pytest.raises(UserError, match="limit of natural images is 0"):
        load_natural_images(folder, 16, 0)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UnreadableImageError, match=r"broken\.png"):
        load_natural_images(folder, 16, None)
