"""Image files are read by stated rules or refused by name; the same rules hold for every reader."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.image_files import Levels, defect_pixels, read_mask, read_original, read_pixels
from metaldefect.images import UnreadableImageError, read_grey, read_rgb
from metaldefect.ingest.levels import find_levels

RAMP = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
GREY = (RAMP % 256).astype(np.uint8)
MARK = np.zeros((20, 30), bool)
MARK[4:9, 6:15] = True


def write(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "LA"])
def test_eight_bits_of_any_mode_are_read_as_they_are(tmp_path, mode):
    path = write(tmp_path / "a.png", Image.fromarray(GREY).convert(mode))
    assert np.array_equal(read_pixels(path), GREY)
    assert np.array_equal(read_grey(path), GREY)
    assert np.array_equal(read_rgb(path), np.repeat(GREY[..., None], 3, axis=2))


def test_one_bit_is_black_and_white(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(MARK))
    assert np.array_equal(read_pixels(path), MARK * np.uint8(255))


def test_colour_becomes_grey_by_rec_601(tmp_path):
    path = write(tmp_path / "a.png", Image.new("RGB", (16, 16), (200, 100, 50)))
    assert read_pixels(path)[0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_read_from_tiff_with_the_levels_of_its_dataset(tmp_path, channels):
    deep = np.full((20, 30, channels), 65535, np.uint16)  # opaque, if there is an alpha channel
    deep[..., :3] = np.dstack([RAMP, RAMP * 2, RAMP * 6])
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    levels = find_levels([tmp_path / "a.tif"])
    assert levels == Levels(0, 4095, clip=False)  # 599 * 6 = 3594 needs 12 bits
    colour = read_pixels(tmp_path / "a.tif", colour=True, levels=levels)
    # 599 * 255 / 4095 = 37.3, the double 74.6, six times 223.8
    assert colour[-1, -1].tolist() == [37, 75, 224]
    grey = read_pixels(tmp_path / "a.tif", levels=levels)
    assert grey[-1, -1] == round(0.299 * 37 + 0.587 * 75 + 0.114 * 224)
    assert np.array_equal(read_original(tmp_path / "a.tif"), deep)
    with pytest.raises(RejectedFileError, match=r"8 bits per pixel \(uint16\) without known levels"):
        read_pixels(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colour_is_turned_as_8_bits_are(tmp_path, orientation):
    """Pillow turns the 8-bit image; the 16-bit one must follow."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3))
    tifffile.imwrite(
        tmp_path / "deep.tif",
        pixels.astype(np.uint16),
        photometric="rgb",
        extratags=[(274, 3, 1, orientation, True)],
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(tmp_path / "a.png", Image.fromarray(pixels.astype(np.uint8)), exif=exif)
    assert np.array_equal(read_original(tmp_path / "deep.tif"), read_original(tmp_path / "a.png"))


def test_16_bit_colour_by_planes_and_broken_16_bit_colour(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "planes.tif", np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate"
    )
    assert np.array_equal(read_original(tmp_path / "planes.tif"), deep)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:1000])
    with pytest.raises(RejectedFileError, match=r"unreadable image|16-bit colour that cannot be read"):
        read_original(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_12_bits_keep_their_contrast_by_one_rule_for_the_dataset(tmp_path, suffix):
    dark, bright = RAMP, RAMP + np.uint16(3400)
    paths = [
        write(tmp_path / f"{name}{suffix}", Image.fromarray(pixels))
        for name, pixels in (("dark", dark), ("bright", bright))
    ]
    levels = find_levels(paths)
    assert levels == Levels(0, 4095, clip=False)
    # 599 * 255 / 4095 = 37.3 and 3999 * 255 / 4095 = 249.02: one scale for both, and nothing is white
    assert read_pixels(paths[0], levels=levels).max() == 37
    assert read_pixels(paths[1], levels=levels).max() == 249
    with pytest.raises(RejectedFileError, match="more than 8 bits per pixel"):
        read_pixels(paths[0])


@pytest.mark.parametrize(
    ("highest", "white"), [(200, 255), (256, 1023), (1024, 4095), (5000, 16383), (65535, 65535)]
)
def test_the_bit_depth_is_the_smallest_that_holds_every_level(tmp_path, highest, white):
    path = write(tmp_path / "a.png", Image.fromarray(np.full((16, 16), highest, np.uint16)))
    assert find_levels([path]) == Levels(0, white, clip=False)


def test_levels_beyond_the_bit_depth_are_refused_and_beyond_a_window_clipped(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(RAMP * np.uint16(10)))
    with pytest.raises(RejectedFileError, match="levels from 0 to 5990, beyond the range 0 to 4095"):
        read_pixels(path, levels=Levels.of_bits(12))
    grey = read_pixels(path, levels=Levels.of_setting((1000.0, 2000.0)))
    assert (grey.min(), grey.max()) == (0, 255)


def test_float_and_int32_need_stated_levels(tmp_path):
    unit = write(tmp_path / "unit.tif", Image.fromarray(GREY.astype(np.float32) / 255))
    large = write(tmp_path / "large.tif", Image.fromarray(GREY.astype(np.int32) * 256))
    assert find_levels([unit, large]) is None
    # a bit depth found in other files of the folder says nothing about floats: 1.0 would become black
    with pytest.raises(RejectedFileError, match="float pixels have no bit depth"):
        read_pixels(unit, levels=Levels.of_bits(12))
    assert np.array_equal(read_pixels(unit, levels=Levels.of_setting((0.0, 1.0))), GREY)
    assert np.array_equal(read_pixels(large, levels=Levels.of_setting((0, 65280))), GREY)


@pytest.mark.parametrize("setting", [0, 33, (5.0, 5.0), (9.0, 2.0)])
def test_impossible_levels_are_an_error(setting):
    with pytest.raises(UserError, match="levels: "):
        Levels.of_setting(setting)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_every_reader_turns_images_upright(tmp_path, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / "a.png", Image.fromarray(GREY), exif=exif)
    assert np.array_equal(read_pixels(path), np.rot90(GREY, turns))
    assert np.array_equal(read_grey(path), np.rot90(GREY, turns))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA"])
def test_a_tiff_is_turned_whatever_its_mode_and_compression(tmp_path, mode, compression, orientation):
    stored = Image.fromarray(RAMP) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    path = write(tmp_path / "a.tif", stored, compression=compression, tiffinfo={0x0112: orientation})
    # TIFF 6.0: where the first row and the first column of the file belong
    turned = {
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
        5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, 3),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90,
    }[orientation](np.asarray(stored))  # fmt: skip
    assert np.array_equal(read_original(path), turned)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_broken_exif_costs_no_image(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", Image.fromarray(GREY), exif=b"Exif\0\0garbage garbage")
    assert read_pixels(path).shape == GREY.shape


def test_an_orientation_is_followed_among_tags_that_cannot_be_written_again(tmp_path):
    # Two tags: the orientation as a short number, and a resolution that is text instead of a rational
    tags = struct.pack("<HHIHHHHIHH", 0x0112, 3, 1, 6, 0, 0x011A, 2, 1, 72, 0)
    block = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + tags + bytes(4)
    path = write(tmp_path / "a.jpg", Image.fromarray(np.repeat(GREY, 8, axis=0)), exif=bytes(block))
    assert read_pixels(path).shape == (30, 160)


@pytest.mark.parametrize("suffix", [".tif", ".bmp"])
def test_no_file_is_mapped_into_memory(tmp_path, monkeypatch, suffix):
    """Reading a mapped file that is cut short meanwhile would end the process, not raise."""
    path = write(tmp_path / f"a{suffix}", Image.fromarray(GREY))
    mapped = []
    load = ImageFile.ImageFile.load

    def watched(image):
        found = load(image)
        mapped.append(image.map)
        return found

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    assert np.array_equal(read_pixels(path), GREY)
    assert mapped
    assert set(mapped) == {None}


def test_levels_that_wrap_around_are_refused(tmp_path):
    for name, pixels in {
        "u32": GREY.astype(np.uint32) * 10_000_000,
        "i8": GREY.astype(np.int8),
    }.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
        with pytest.raises(RejectedFileError, match="levels"):
            read_original(tmp_path / f"{name}.tif")
    small = GREY.astype(np.uint32) * 1000
    tifffile.imwrite(tmp_path / "small.tif", small)
    assert np.array_equal(read_original(tmp_path / "small.tif"), small)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_a_mask_that_fits_only_the_stored_pixels_is_refused_with_that_reason(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    if suffix == ".jpg":
        image = write(tmp_path / "a.jpg", Image.fromarray(GREY), exif=exif)
    else:
        image = tmp_path / "a.tif"
        deep = np.repeat(RAMP[..., None], 3, axis=2)
        tifffile.imwrite(image, deep, photometric="rgb", extratags=[(0x0112, "H", 1, 6, True)])
    mask = write(tmp_path / "a_mask.png", Image.fromarray(MARK))
    with pytest.raises(RejectedFileError, match="it fits the stored pixels only, which EXIF turns"):
        read_mask(mask, (30, 20), image)


def masks() -> dict[str, Image.Image]:
    palette = Image.fromarray(MARK.astype(np.uint8)).convert("P")
    palette.putdata(MARK.astype(np.uint8).ravel().tolist())
    palette.putpalette([0, 0, 0, 128, 0, 0] + [0] * 254 * 3)
    alpha = np.zeros((20, 30, 4), np.uint8)
    alpha[MARK] = (0, 0, 0, 255)
    red = np.zeros((20, 30, 3), np.uint8)
    red[MARK] = (255, 0, 0)
    smooth = MARK.astype(np.uint8) * 255
    smooth[3, 6:15] = range(20, 110, 10)
    return {
        "255": Image.fromarray(MARK.astype(np.uint8) * 255),
        "1": Image.fromarray(MARK.astype(np.uint8)),
        "2": Image.fromarray(MARK.astype(np.uint8) * 2),
        "127": Image.fromarray(MARK.astype(np.uint8) * 127),
        "one bit": Image.fromarray(MARK),
        "16 bits": Image.fromarray(MARK.astype(np.uint16) * 65535),
        "palette": palette,
        "alpha": Image.fromarray(alpha),
        "red": Image.fromarray(red),
        "smooth edge": Image.fromarray(smooth),
    }


@pytest.mark.parametrize("coding", list(masks()))
def test_codings_of_masks(tmp_path, coding):
    path = write(tmp_path / "m.png", masks()[coding])
    assert np.array_equal(read_mask(path, (20, 30)), MARK * np.uint8(255))


def test_class_numbers_are_defects_and_empty_masks_empty(tmp_path):
    numbers = np.zeros((20, 30), np.uint8)
    numbers[2:5, 2:5], numbers[8:12, 8:20] = 1, 3
    path = write(tmp_path / "m.png", Image.fromarray(numbers))
    assert np.array_equal(read_mask(path, (20, 30)) == 255, numbers > 0)
    assert not read_mask(write(tmp_path / "e.png", Image.new("L", (30, 20))), (20, 30)).any()


def test_a_jpeg_mask_is_read_at_half(tmp_path):
    path = write(tmp_path / "m.jpg", masks()["255"], quality=80)
    assert ((read_mask(path, (20, 30)) == 255) ^ MARK).sum() <= 4


@pytest.mark.parametrize(
    ("levels", "listed"),
    [((0, 60, 255), "0, 60, 255"), ((0, 60, 120, 180, 240), "0, 60, 120, 180, 240"), ((40, 90), "40, 90")],
)
def test_an_unclear_coding_lists_its_levels(levels, listed):
    pixels = np.zeros((20, 30), np.uint8)
    for number, level in enumerate(levels):
        pixels[4 * number :] = level
    with pytest.raises(RejectedFileError, match=f"unclear mask: its levels are {listed}; use 0 and 255"):
        defect_pixels(pixels)


MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F")


@given(
    mode=st.sampled_from(MODES),
    suffix=st.sampled_from([".png", ".jpg", ".bmp", ".tif", ".TIFF", ".gif", ".webp"]),
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    orientation=st.integers(0, 9),
    pages=st.integers(1, 2),
    cut=st.one_of(st.none(), st.integers(0, 400)),
    seed=st.integers(0, 2**32 - 1),
    setting=st.sampled_from([None, 12, 16, (0.0, 1.0)]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_right_or_refused_by_name(
    tmp_path, mode, suffix, width, height, orientation, pages, cut, seed, setting
):
    """Every reader agrees, gives the pixels that were saved, or names the file; nothing else happens."""
    rng = np.random.default_rng(seed)
    image = draw(mode, rng, (height, width))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x{suffix}"
    try:
        more = {"save_all": True, "append_images": [image]} if pages > 1 else {}
        image.save(path, exif=exif, **more)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # no such file exists: the format does not know the mode
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])
    levels = Levels.of_setting(setting)
    try:
        grey = read_pixels(path, levels=levels)
    except RejectedFileError:
        with pytest.raises(UnreadableImageError, match=rf"x\{suffix}: \w"):
            read_grey(path, levels=levels)
        return
    assert np.array_equal(read_grey(path, levels=levels), grey)
    assert grey.dtype == np.uint8
    assert sorted(grey.shape) == sorted((height, width))
    if mode == "L" and suffix == ".png" and orientation in (0, 1, 9):
        assert np.array_equal(grey, np.asarray(image))
    if mode in ("I;16", "I", "F"):
        assert levels is not None
        pixels = np.asarray(image)
        if suffix == ".png" and mode == "I":  # PNG has no 32 bits: Pillow writes 16
            pixels = np.clip(pixels, 0, 65535)
        assert levels.clip or pixels.max() <= levels.high
        assert levels.clip or mode != "F"
        assert sorted(grey.ravel()) == sorted(levels.apply(pixels).ravel())


def draw(mode: str, rng: np.random.Generator, shape: tuple[int, int]) -> Image.Image:
    """Noise of a mode, with as many levels as it holds."""
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, int(rng.choice([256, 4096, 65536])), shape).astype(np.uint16))
    if mode == "I":
        return Image.fromarray(rng.integers(-5, 70_000, shape).astype(np.int32))
    if mode == "F":
        return Image.fromarray(rng.choice([rng.random(shape), np.full(shape, np.nan)]).astype(np.float32))
    image = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8))
    if mode in ("CMYK", "YCbCr", "HSV"):
        return image.convert("RGB").convert(mode)
    return image.convert(mode)


@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_a_mask_of_any_coding_is_refused_or_keeps_black_and_its_brightest_level_apart(levels, seed, lossy):
    pixels = np.random.default_rng(seed).choice(np.array(levels, np.uint8), (20, 30))
    try:
        marked = defect_pixels(pixels, lossy=lossy)
    except RejectedFileError:
        return
    assert not marked[pixels == 0].any()
    if not lossy:
        assert marked[pixels == pixels.max()].all() == bool(pixels.max())


@pytest.mark.parametrize("width", [160, 720, 1600])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_8_bits_are_read_whatever_numbers_a_header_holds(tmp_path, width, mode):
    """Pillow's row lengths and offsets hold the digits 16 too."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, width), np.uint8)).convert(mode)
    image.save(tmp_path / "x.bmp")
    assert read_pixels(tmp_path / "x.bmp").shape == (200, width)


def test_a_compressed_tiff_is_read_wherever_its_header_lies(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (100, 100), np.uint8)
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "TIFF", compression="tiff_lzw")
    data = whole.getvalue()
    (start,) = struct.unpack("<I", data[4:8])
    place = next(n for n in range(len(data) + len(data) % 2, 200_000, 2) if "16" in str(n))
    moved = data[:4] + struct.pack("<I", place) + data[8:] + bytes(place - len(data)) + data[start:]
    (tmp_path / "x.tif").write_bytes(moved)
    np.testing.assert_array_equal(read_pixels(tmp_path / "x.tif"), pixels)


def test_a_tiff_of_16_bit_colour_is_known_by_its_content(tmp_path):
    levels = Levels(0, 65535, clip=False)
    tifffile.imwrite(tmp_path / "x.tif", np.full((32, 32, 3), 32768, np.uint16), photometric="rgb")
    (tmp_path / "x.tif").rename(tmp_path / "x.image")
    assert read_pixels(tmp_path / "x.image", levels=levels).max() in (127, 128)
