"""Photographs keep their channels and bits, and what cannot be kept is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from metaldefect.image_files import Levels
from metaldefect.images import UnreadableImageError
from metaldefect.ingest.levels import find_levels
from metaldefect.synthesis.photographs import as_photograph, read_photograph, write_photograph

RNG = np.random.default_rng(0)
KINDS = {
    "grey": RNG.integers(0, 256, (20, 30)).astype(np.uint8),
    "colour": RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8),
    "16-bit grey": RNG.integers(0, 65536, (20, 30)).astype(np.uint16),
    "16-bit colour": RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16),
}
OPAQUE = np.full((20, 30, 1), 255, np.uint8)
KINDS["grey with alpha"] = np.dstack([KINDS["grey"], OPAQUE])
KINDS["colour with alpha"] = np.dstack([KINDS["colour"], OPAQUE])
KINDS["16-bit colour with alpha"] = np.dstack([KINDS["16-bit colour"], OPAQUE.astype(np.uint16) * 257])


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_of_a_photograph_survives_writing_and_reading(kind: str, tmp_path: Path) -> None:
    photograph = as_photograph(KINDS[kind])
    path = tmp_path / f"a{photograph.suffix}"
    write_photograph(path, photograph)
    found = read_photograph(path)
    assert found.pixels.dtype == KINDS[kind].dtype
    assert np.array_equal(found.pixels, KINDS[kind])
    # An independent reader sees the same
    other = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
    assert np.array_equal(other, KINDS[kind])


def test_white_is_that_of_the_sensor() -> None:
    for brightest, white in (
        (255, 255),
        (256, 1023),
        (1023, 1023),
        (1024, 4095),
        (4095, 4095),
        (4096, 16383),
        (65535, 65535),
    ):
        assert as_photograph(np.full((4, 4), brightest, np.uint16)).white == white
    assert as_photograph(np.zeros((4, 4), np.uint8)).white == 255


def test_a_change_is_in_levels_of_white_and_leaves_alpha_and_the_rest_alone() -> None:
    pixels = np.full((8, 8, 4), 100, np.uint8)
    change = np.zeros((2, 2, 3), np.float32)
    change[0, 0] = (-30, 0, 200)
    after = as_photograph(pixels).changed_by((slice(3, 5), slice(3, 5)), change).pixels
    assert after[3, 3].tolist() == [70, 100, 255, 100]
    after[3, 3] = 100
    assert np.array_equal(after, pixels)
    deep = as_photograph(np.full((8, 8), 4095, np.uint16))
    assert (
        deep.changed_by((slice(0, 1), slice(0, 1)), np.full((1, 1, 1), -51.0, np.float32)).pixels[0, 0]
        == 3276
    )
    assert deep.levels((slice(0, 1), slice(0, 1)))[0, 0, 0] == 255


def test_a_bright_change_ends_at_white_so_that_a_reader_finds_the_same_bit_depth() -> None:
    metal = as_photograph(np.full((16, 16), 4000, np.uint16))
    everywhere = (slice(None), slice(None))
    after = metal.changed_by(everywhere, np.full((16, 16, 1), 51.0, np.float32))
    assert after.pixels.max() == 4095
    assert as_photograph(after.pixels).white == 4095


def test_between_stated_levels_a_change_is_scaled_and_what_lies_beyond_keeps_its_value() -> None:
    pixels = np.array([[100, 1000, 2000, 3000, 3900]], np.uint16)
    metal = as_photograph(pixels, Levels(1000.0, 3000.0, clip=True))
    everywhere = (slice(None), slice(None))
    assert metal.levels(everywhere)[0, :, 0].tolist() == [0, 0, 127.5, 255, 255]
    change = np.array([0, -51, -51, 51, 0], np.float32)[None, :, None]
    after = metal.changed_by(everywhere, change).pixels
    assert after.tolist() == [[100, 1000, 1600, 3000, 3900]]


def test_a_turned_photograph_is_read_upright(tmp_path: Path) -> None:
    image = Image.fromarray(KINDS["colour"])
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_photograph(tmp_path / "a.png").pixels, np.rot90(KINDS["colour"], -1))


def test_white_is_that_of_the_dataset_and_brighter_pixels_are_refused(tmp_path: Path) -> None:
    levels = {"dark": 900, "bright": 4000}
    for name, level in levels.items():
        Image.fromarray(np.full((16, 16), level, np.uint16)).save(tmp_path / f"{name}.png")
    depth = find_levels([tmp_path / f"{name}.png" for name in levels])
    assert [read_photograph(tmp_path / f"{name}.png", depth).white for name in levels] == [4095, 4095]
    with pytest.raises(UnreadableImageError, match=r"bright\.png: levels up to 4000, beyond"):
        read_photograph(tmp_path / "bright.png", Levels.of_bits(10))


def test_photographs_obey_the_rules_of_every_other_door(tmp_path: Path) -> None:
    """The rules' own tests are in tests/test_image_files.py; this holds the door to them."""
    Image.new("CMYK", (16, 16)).save(tmp_path / "print.tif")
    Image.fromarray(np.full((16, 16), 1e6, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.dstack([KINDS["grey"], KINDS["grey"]])).save(tmp_path / "alpha.png")
    Image.fromarray(KINDS["grey"]).save(tmp_path / "film.gif")
    (tmp_path / "text.tif").write_text("no image")
    for name, reason in (
        ("print.tif", "mode CMYK: save it as"),
        ("float.tif", "float32 pixels: save it with 8 or 16 bits"),
        ("alpha.png", "transparent pixels"),
        ("film.gif", "GIF image"),
        ("text.tif", "unreadable image"),
    ):
        with pytest.raises(UnreadableImageError, match=f"{name}: {reason}"):
            read_photograph(tmp_path / name)
