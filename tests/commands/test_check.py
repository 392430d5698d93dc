"""`metaldefect check` says what it sees in a folder, on the terminal and as a page."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from metaldefect.commands.check import describe, write_page
from metaldefect.errors import UserError
from metaldefect.image_files import levels_setting
from metaldefect.ingest.adapters import recognise
from metaldefect.ingest.examine import DatasetSpec, examine_dataset
from metaldefect.ingest.overview import look_at
from tests.coloured import plates
from tests.plant import write_plant


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plant")
    write_plant(root, defects=6, good=9)
    return root


def test_what_a_plant_s_folder_holds(plant: Path) -> None:
    seen = look_at(plant)
    assert seen.adapter == "folder"
    assert seen.classes == {"dent": 6, "good": 9, "scratch": 6}
    assert seen.masks == {"dent": 3, "scratch": 3}
    assert seen.sizes == {(128, 128): 7, (144, 112): 14}
    assert seen.kinds == {
        "PNG, 8 bits, grey": 7,
        "JPEG, 8 bits, colour": 6,
        "BMP, 8 bits, grey": 4,
        "TIFF, 16 bits, grey": 4,
    }
    assert seen.levels is not None
    assert seen.levels.high == 65535
    assert seen.mask_levels == {"0/255": 6}
    assert (seen.groups, seen.scenes, seen.rejected) == ((0, 0), 21, [])


def test_the_text_names_refused_files_and_what_to_type_next(plant: Path, tmp_path: Path) -> None:
    seen = look_at(plant)
    text = describe(seen)
    assert "dent         6, 3 with a mask" in text
    assert f"Next: metaldefect new ../mine --good {plant}/good --defects {plant}\n" in text
    profile = yaml.safe_load(text[text.index("# @package") :])
    assert profile["data"] == {"root": str(plant), "classes": ["dent", "scratch"]}
    assert profile["merge"]["inspection"] == {"adapter": "folder", "root": "."}
    broken = plant / "good/broken.png"
    broken.write_text("no image")
    try:
        text = describe(look_at(plant))
    finally:
        broken.unlink()
    assert "refused      1\n  folder/good/broken.png: unreadable image" in text
    assert "Next: repair or remove the refused files" in text
    write_page(seen, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 6 + 7 + 6
    assert "<script" not in page
    assert 'src="http' not in page


def test_masks_that_mark_nothing_or_contradict_their_label_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = np.zeros((64, 64), np.uint8)
    drawn[20:40, 20:40] = 255
    for name, mask in (("dent/1", drawn), ("dent/2", drawn * 0), ("good/3", drawn), ("good/4", None)):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(100, 156, (64, 64)).astype(np.uint8)).save(path)
        if mask is not None:
            Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
    seen = look_at(tmp_path)
    text = describe(seen)
    assert "dent      2, 2 with a mask, 1 of them empty" in text
    assert "good      1, no defect" in text
    assert "folder/good/3.png: its label says good, but its mask marks a defect" in text
    marked, empty = ((image == (255, 64, 32)).all(axis=2) for image in seen.thumbnails["dent"])
    # Twice the size: the outline runs around 40 to 79, and no grey pixel has that colour by itself
    rows, columns = np.nonzero(marked)
    assert {rows.min(), columns.min()} <= {37, 38, 39}
    assert {rows.max(), columns.max()} <= {80, 81, 82}
    assert not marked[45:75, 45:75].any()
    assert not empty.any()


def test_scenes_are_those_that_a_table_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,label,group"]
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (32, 32)).astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,good,part{number // 3}")
    (tmp_path / "parts.csv").write_text("\n".join(lines))
    assert "duplicates   none; 2 scenes" in describe(look_at(tmp_path))


def test_the_profile_leaves_out_good_images_by_any_name_and_quotes_class_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("MT_Free/Imgs/1.jpg", "MT_7/Imgs/2.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (32, 32)).astype(np.uint8)).save(path)
    text = describe(look_at(tmp_path))
    profile = yaml.safe_load(text[text.index("# @package") :])
    assert profile["data"]["classes"] == ["7"]
    assert profile["merge"]["datasets"] == [{"adapter": "magnetic_tile", "root": "."}]
    found, files = examine_dataset(DatasetSpec("magnetic_tile", tmp_path), ["7"], 32)
    assert [item.label for item in found] == ["7"]
    assert files.rejected == []


@pytest.mark.parametrize(
    ("image", "adapter"),
    [
        ("train/good/1.png", "mvtec_ad"),
        ("MT_Free/Imgs/1.jpg", "magnetic_tile"),
        ("Source Images/In_1.bmp", "sd_saliency_900"),
        ("datas/red iron/1.jpg", "x_sdd"),
        ("train/images/crazing/crazing_1.jpg", "neu_det"),
        ("IMAGES/crazing_1.jpg", "folder"),
        ("Class1/Train/1.PNG", "dagm_2007"),
        ("kos01/Part0.jpg", "kolektor_sdd"),
        ("train/10301_GT.png", "kolektor_sdd2"),
        ("Data/Images/Normal/0000.JPG", "visa"),
        ("train/ok/0000.bmp", "btad"),
        ("test/ok_front/cast_ok_0_1.jpeg", "casting"),
        ("ok_front/cast_ok_0_1.jpeg", "casting"),
        ("good/1.png", "folder"),
    ],
)
def test_published_layouts_are_recognised(tmp_path: Path, image: str, adapter: str) -> None:
    path = tmp_path / image
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    assert recognise(tmp_path) == adapter


def test_a_folder_of_datasets_is_named(tmp_path: Path) -> None:
    for name in ("bottle", "screw"):
        (tmp_path / name / "train/good").mkdir(parents=True)
    with pytest.raises(UserError, match="holds several datasets: check one of bottle, screw"):
        recognise(tmp_path)


def test_coloured_images_are_counted_and_keep_their_colours_in_the_profile(tmp_path: Path) -> None:
    images, _ = plates(8)
    for number, image in enumerate(images):
        grey = np.repeat(image[..., :1], 3, axis=2)  # a colour file that shows no colour
        path = tmp_path / ("good", "rust")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(grey if number < 3 else image).save(path)
    seen = look_at(tmp_path)
    text = describe(seen)
    assert "colours      in 5 of 8 images, kept by `channels: 3`" in text
    assert yaml.safe_load(text[text.index("# @package") :])["data"]["channels"] == 3
    for path in tmp_path.rglob("[67].png"):
        path.unlink()
    text = describe(look_at(tmp_path))
    assert "colours      in 3 of 6 images, kept" in text
    next(tmp_path.rglob("5.png")).unlink()
    text = describe(look_at(tmp_path))
    assert "colours      in 2 of 5 images, made grey; `channels: 3` keeps them" in text
    assert "channels" not in yaml.safe_load(text[text.index("# @package") :])["data"]


def test_a_class_named_in_other_bytes_than_utf_8_is_shown_escaped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, number in (("good", 0), ("good", 1), ("scratch", 2)):
        (tmp_path / label).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    (tmp_path / "scratch").rename(tmp_path / os.fsdecode("划痕".encode("gbk")))
    seen = look_at(tmp_path)
    text = describe(seen)
    assert "  \\xbb\\xae\\xba\\xdb " in text
    text.encode()
    profile = yaml.safe_load(text[text.index("# @package") :])
    assert profile["data"]["classes"] == [os.fsdecode("划痕".encode("gbk"))]
    write_page(seen, tmp_path / "page.html")
    assert "<h2>\\xbb\\xae\\xba\\xdb</h2>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_float_images_are_read_by_the_levels_that_the_text_advises(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, (low, high) in enumerate([(0.25, 0.5), (0.125, 0.375), (0.25, 0.75)]):
        pixels = rng.uniform(low, high, (32, 32)).astype(np.float32)
        pixels[0, :2] = low, high
        (tmp_path / "good").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"good/{number}.tif")
    text = describe(look_at(tmp_path))
    assert "refused      3" in text
    assert "32 bits      levels from 0.125 to 0.75 in images that need stated levels" in text
    assert f"Next: metaldefect check {tmp_path} --levels 0.125,0.75" in text
    assert "set `levels: [0.125, 0.75]` of the dataset" in text
    seen = look_at(tmp_path, setting=levels_setting("0.125,0.75"))
    text = describe(seen)
    assert (seen.rejected, seen.classes) == ([], {"good": 3})
    profile = yaml.safe_load(text[text.index("# @package") :])
    assert profile["merge"]["inspection"] == {"adapter": "folder", "root": ".", "levels": [0.125, 0.75]}


@pytest.mark.parametrize("text", ["", "twelve", "1,2,3", "1,", "a,b"])
def test_other_levels_than_a_depth_or_a_pair_are_an_error(text: str) -> None:
    assert levels_setting("12") == 12
    assert levels_setting("-1,1") == (-1, 1)
    with pytest.raises(UserError, match="give a bit depth, such as 12, or black and white, such as 0,1"):
        levels_setting(text)


def test_thumbnails_show_the_colours_of_coloured_images(tmp_path: Path) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = np.random.default_rng(0).integers(150, 250, (64, 64))
    (tmp_path / "good").mkdir()
    Image.fromarray(red).save(tmp_path / "good/1.png")
    Image.fromarray(red[..., 0]).save(tmp_path / "good/2.png")
    coloured, grey = look_at(tmp_path).thumbnails["good"]
    assert coloured[..., 0].mean() > 150
    assert coloured[..., 1:].max() == 0
    assert (grey == grey[..., :1]).all()


def write_grey(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    Image.fromarray(rng.integers(0, 256, (32, 32)).astype(np.uint8)).save(path)


def test_the_command_names_the_folder_of_good_images_as_it_is_spelled(tmp_path: Path) -> None:
    write_grey(tmp_path / "Good/1.png")
    write_grey(tmp_path / "dent/22.png")
    assert f"--good {tmp_path}/Good --defects {tmp_path}\n" in describe(look_at(tmp_path))


def test_make_is_named_only_where_there_is_a_makefile_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grey(tmp_path / "plant/good/1.png")
    here = "write conf/profile/mine.yaml and type `make repro PROFILE=mine`:"
    there = (
        "write conf/profile/mine.yaml in a checkout of metaldefect's repository and type"
        " `make repro PROFILE=mine` there:"
    )
    assert here in describe(look_at(tmp_path / "plant"))
    monkeypatch.chdir(tmp_path)
    text = describe(look_at(Path("plant")))
    assert here not in text
    assert there in text
    assert yaml.safe_load(text[text.index("# @package") :])["data"]["root"] == str(tmp_path / "plant")
