"""`metaldefect insert` and `metaldefect draw`: what they write, what they leave alone, and how they go on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from defusedxml import ElementTree
from PIL import Image
from scipy import ndimage

from metaldefect.api import remake_drawing, remake_insertion
from metaldefect.artifacts import sha256_file, write_json
from metaldefect.commands import draw as drawing
from metaldefect.commands import insert as inserting
from metaldefect.commands.insert import stated_levels
from metaldefect.commands.insert_settings import DrawSettings, InsertSettings
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.images import read_grey, write_png
from metaldefect.ingest.inspection import build_inspection
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image
from metaldefect.synthesis.photographs import read_photograph
from pipeline.cli import main
from tests.tiny_models import save_tiny_painter

FEATHER = 6.0
SIZE = (150, 170)


def normal(seed: int) -> np.ndarray:
    return generate_normal_image(seed, 170)[: SIZE[0], : SIZE[1]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey, colour and 16-bit photographs, some in a sub-folder."""
    root = tmp_path_factory.mktemp("photos")
    write_png(root / "grey.png", normal(0))
    (root / "line 2").mkdir()
    colour = np.stack([normal(1), normal(1) // 4 * 3, normal(1) // 2], axis=2)
    Image.fromarray(colour).save(root / "line 2/brass.jpg", quality=95)
    tifffile.imwrite(root / "deep.tif", normal(2).astype(np.uint16) * 16)
    return root


@pytest.fixture(scope="module")
def defects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photographs of blots, and their masks."""
    images, masks = (tmp_path_factory.mktemp(name) for name in ("blots", "blot_masks"))
    for seed in range(4):
        image, mask = generate_anomalous_image("contamination", np.random.default_rng(seed), 160)
        write_png(images / f"{seed}.png", image)
        write_png(masks / f"{seed}_mask.png", mask.astype(np.uint8) * 255)
    return images, masks


@pytest.fixture
def settings(photos: Path, defects: tuple[Path, Path], tmp_path: Path) -> Callable[..., InsertSettings]:
    def make(**more: Any) -> InsertSettings:
        given = {
            "images": photos, "label": ("blot",), "output": tmp_path / "out", "method": "transplant",
            "defects": defects[0], "defect_masks": defects[1], "seed": 7,
        }  # fmt: skip
        return InsertSettings(**given | more)

    return make


def files_of(folder: Path) -> dict[str, str]:
    kept = ("images", "masks", "test", "train", "ground_truth")
    paths = [path for name in kept for path in (folder / name).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


def test_images_keep_their_kind_and_change_only_around_the_written_mask(
    photos: Path, settings: Callable[..., InsertSettings]
) -> None:
    before = {path: sha256_file(path) for path in photos.rglob("*") if path.is_file()}
    done = inserting.insert(settings(per_image=2))
    assert done.images == 3
    assert 4 <= done.defects <= 6
    assert {path: sha256_file(path) for path in before} == before
    table = pd.read_parquet(settings().output / "manifest.parquet")
    assert len(table) == 6
    for name, rows in table.groupby("image"):
        old = read_photograph(Path(rows["canvas"].iloc[0])).pixels
        new = read_photograph(settings().output / name).pixels
        assert (new.dtype, new.shape) == (old.dtype, old.shape)
        mask = np.asarray(Image.open(settings().output / rows["mask"].iloc[0])) > 0
        assert mask.sum() == rows["area"].sum()
        changed = (new != old).reshape(*mask.shape, -1).any(axis=2)
        assert (changed & mask).sum() > 0.8 * mask.sum()
        assert not (changed & (ndimage.distance_transform_edt(~mask) >= FEATHER)).any()
    assert set(table["note"]) <= {"", "no room", "invisible"}


def test_the_manifest_in_parquet_is_the_one_in_csv(settings: Callable[..., InsertSettings]) -> None:
    inserting.insert(settings())
    table = pd.read_parquet(settings().output / "manifest.parquet")
    with (settings().output / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == table["image"].tolist()
    assert [float(row["contrast"]) for row in rows] == table["contrast"].tolist()
    for row in rows:
        path = settings().output / row["image"]
        assert row["image_sha256"] == sha256_file(path)
        photograph, number = row["source"].rsplit("#", 1)
        assert Path(photograph).parent == settings().defects
        assert int(number) >= 1
        assert json.loads(row["parameters"])["seed"] == 7


def test_one_seed_gives_one_result_and_another_seed_another(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        inserting.insert(settings(output=tmp_path / name, seed=seed))
    first, again, other = (files_of(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize("method", ["transplant", "drawn"])
def test_the_number_of_workers_changes_no_byte(
    method: str, settings: Callable[..., InsertSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    models = {"tokenizer": tmp_path / "vq", "maskgit": tmp_path / "maskgit"}
    chosen = {"method": method, "label": ("patches",), "per_image": 2, **models}
    for workers in ("1", "3"):
        monkeypatch.setenv("METALDEFECT_WORKERS", workers)
        inserting.insert(settings(output=tmp_path / workers, **chosen))
    assert files_of(tmp_path / "1")
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")


def test_torch_computes_on_one_thread_while_images_run_beside_each_other(
    settings: Callable[..., InsertSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    once = inserting.write_one

    def watched(*given: Any) -> Any:
        seen.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return once(*given)

    monkeypatch.setattr(inserting, "write_one", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inserting.insert(settings())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {(False, 1)}


def test_an_image_does_not_depend_on_the_images_beside_it(
    photos: Path, settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    inserting.insert(settings())
    inserting.insert(settings(images=photos / "grey.png", output=tmp_path / "alone"))
    together, alone = files_of(settings().output), files_of(tmp_path / "alone")
    assert alone
    assert alone.items() <= together.items()


def test_a_killed_run_goes_on_and_ends_with_the_same_files(
    settings: Callable[..., InsertSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inserting.insert(settings(output=tmp_path / "whole"))
    once = inserting.write_one
    calls = []

    def killed(canvas: inserting.Canvas, *rest: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(canvas.name)
        return once(canvas, *rest)

    monkeypatch.setattr(inserting, "write_one", killed)
    with pytest.raises(KeyboardInterrupt):
        inserting.insert(settings())
    assert not (settings().output / "manifest.csv").exists()
    done_before = set(calls)
    calls.clear()
    inserting.insert(settings())
    assert done_before.isdisjoint(calls)
    assert len(done_before) + len(calls) == 3
    assert files_of(settings().output) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("changed", ["canvas", "real defect", "its mask", "place"])
def test_an_output_made_from_other_pixels_is_refused(
    changed: str, defects: tuple[Path, Path], settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    """One pixel of anything that shapes the result: a second run must not call the old result finished."""
    copies = [tmp_path / name for name in ("blots", "blot_masks")]
    for copy, source in zip(copies, defects, strict=True):
        shutil.copytree(source, copy)
    for number in range(2):
        write_png(tmp_path / f"canvases/{number}.png", normal(number))
        place = np.zeros(SIZE, np.uint8)
        place[40:90, 50:100] = 255
        write_png(tmp_path / f"places/{number}.png", place)
    given = settings(
        images=tmp_path / "canvases", defects=copies[0], defect_masks=copies[1], masks=tmp_path / "places"
    )
    inserting.insert(given)
    files = files_of(given.output)
    inserting.insert(given)
    assert files_of(given.output) == files
    path, reason = {
        "canvas": (tmp_path / "canvases/1.png", r"earlier versions of 1 image\(s\), such as .*1.png"),
        "real defect": (copies[0] / "2.png", "other settings \\(defects\\)"),
        "its mask": (copies[1] / "2_mask.png", "other settings \\(defects\\)"),
        "place": (tmp_path / "places/0.png", "other settings \\(masks\\)"),
    }[changed]
    pixels = np.asarray(Image.open(path)).copy()
    pixels[60, 60] = 255 - pixels[60, 60]
    write_png(path, pixels)
    with pytest.raises(UserError, match=reason):
        inserting.insert(given)
    assert files_of(given.output) == files


def test_an_output_of_other_settings_or_of_something_else_is_refused(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    inserting.insert(settings())
    with pytest.raises(UserError, match=r"was made with other settings \(seed\): choose another --output"):
        inserting.insert(settings(seed=8))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("precious")
    with pytest.raises(UserError, match="mine is not empty"):
        inserting.insert(settings(output=tmp_path / "mine"))


@pytest.mark.parametrize("method", ["transplant", "procedural", "drawn"])
def test_every_image_can_be_made_again_from_its_row(
    method: str, settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    models = {"tokenizer": tmp_path / "vq", "maskgit": tmp_path / "maskgit", "steps": 2}
    label = {"transplant": "blot", "procedural": "patches", "drawn": "patches"}[method]
    chosen = settings(method=method, label=(label,), **models)
    inserting.insert(chosen)
    rows = pd.read_parquet(chosen.output / "manifest.parquet")
    rows = rows[rows["visible"]]
    assert len(rows) >= 2
    for row in rows.to_dict("records"):
        again = inserting.remake(row).pixels
        assert np.array_equal(again, read_photograph(chosen.output / row["image"]).pixels)
    with pytest.raises(UserError, match=r"\.png was made by metaldefect 0\.0\.1, and this is \d"):
        inserting.remake(row | {"version": "0.0.1"})
    with pytest.raises(UserError, match=r"\.png cannot be made again here: .* draws other pixels"):
        inserting.remake(row | {"image_sha256": "0" * 64})
    if method == "drawn":
        (tmp_path / "maskgit/config.json").write_text((tmp_path / "maskgit/config.json").read_text() + " ")
        with pytest.raises(UserError, match="the maskgit changed since"):
            inserting.remake(row)


def test_an_image_is_made_again_elsewhere_and_beside_brighter_images(
    settings: Callable[..., InsertSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 12 bits of the canvas are those of the run, not those of what lies beside it today."""
    canvases = tmp_path / "canvases"
    canvases.mkdir()
    tifffile.imwrite(canvases / "deep.tif", normal(2).astype(np.uint16) * 16)
    monkeypatch.chdir(tmp_path)
    chosen = settings(images=Path("canvases"), output=Path("out"))
    assert inserting.insert(chosen).images == 1
    made = read_photograph(tmp_path / "out/images/blot_deep.png").pixels
    tifffile.imwrite(canvases / "bright.tif", np.full(SIZE, 60000, np.uint16))
    with pytest.raises(UserError, match=r"other settings \(levels\)"):
        inserting.insert(chosen)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (row,) = pd.read_parquet(tmp_path / "out/manifest.parquet").to_dict("records")
    with (tmp_path / "out/manifest.csv").open(newline="") as stream:
        (text,) = csv.DictReader(stream)
    for one in (row, text):
        assert np.array_equal(remake_insertion(one).pixels, made)
    (canvases / "deep.tif").unlink()
    with pytest.raises(UserError, match=r"deep\.tif does not exist: images/blot_deep\.png was made from it"):
        remake_insertion(row)


def test_stated_levels_hold_for_canvases_and_defects(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    """A camera that uses the levels from 1000 to 3000 of 16 bits, and a few dead pixels beyond."""
    rng = np.random.default_rng(0)
    folders = [tmp_path / name for name in ("canvases", "blots", "masks")]
    for folder in folders:
        folder.mkdir()

    def deep(image: np.ndarray) -> np.ndarray:
        pixels = np.rint(1000 + image * (2000 / 255)).astype(np.uint16)
        pixels[0, 0], pixels[0, 1] = 0, 60_000
        return pixels

    tifffile.imwrite(folders[0] / "a.tif", deep(normal(2)))
    for seed in range(4):
        image, mask = generate_anomalous_image("contamination", rng, 160)
        tifffile.imwrite(folders[1] / f"{seed}.tif", deep(image))
        write_png(folders[2] / f"{seed}.png", mask.astype(np.uint8) * 255)
    given = {"images": folders[0], "defects": folders[1], "defect_masks": folders[2]}
    chosen = settings(**given, levels=(1000.0, 3000.0))
    assert inserting.insert(chosen).images == 1
    (row,) = pd.read_parquet(chosen.output / "manifest.parquet").to_dict("records")
    assert (row["black"], row["white"]) == (1000, 3000)
    made = read_photograph(chosen.output / row["image"]).pixels
    before = read_photograph(Path(row["canvas"])).pixels
    assert made[0, :2].tolist() == [0, 60_000]
    mask = read_grey(chosen.output / row["mask"]) > 0
    # Read by the bit depth of 60,000, the same defects would be hardly visible
    assert np.abs(made.astype(int) - before)[mask].mean() > 0.05 * 2000
    assert np.array_equal(remake_insertion(row).pixels, made)


def test_drawn_defects_take_the_levels_of_the_models(tmp_path: Path) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    (tmp_path / "photos").mkdir()
    tifffile.imwrite(tmp_path / "photos/a.tif", normal(2).astype(np.uint16) * 8)
    models = {"tokenizer": tmp_path / "vq", "maskgit": tmp_path / "maskgit", "steps": 2}
    given = {"images": tmp_path / "photos", "label": ("patches",), "output": tmp_path / "out", **models}
    assert stated_levels(InsertSettings(**given)) is None
    card = json.loads((tmp_path / "vq/config.json").read_text())
    twelve = {"low": 0.0, "high": 4095.0, "clip": False}
    write_json(tmp_path / "vq/config.json", card | {"levels": {"line": twelve}})
    assert stated_levels(InsertSettings(**given)) == Levels.of_bits(12)
    assert stated_levels(InsertSettings(**given, levels=14)) == Levels.of_bits(14)
    write_json(tmp_path / "vq/config.json", card | {"levels": {"a": twelve, "b": twelve | {"high": 1023.0}}})
    assert stated_levels(InsertSettings(**given)) is None


def test_a_drawn_image_is_made_again_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    monkeypatch.chdir(tmp_path)
    models = {"tokenizer": Path("vq"), "maskgit": Path("maskgit"), "steps": 2}
    drawing.draw(DrawSettings(label=("patches",), output=Path("out"), count=1, **models))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (row,) = pd.read_parquet(tmp_path / "out/manifest.parquet").to_dict("records")
    with Image.open(tmp_path / "out" / row["image"]) as image:
        assert np.array_equal(remake_drawing(row), np.asarray(image))
    with pytest.raises(UserError, match=r"\.png cannot be made again here: .* draws other pixels"):
        remake_drawing(row | {"image_sha256": "0" * 64})


@pytest.mark.parametrize("method", ["drawn", "procedural"])
def test_a_killed_draw_goes_on_and_ends_with_the_same_files(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    models = {"tokenizer": tmp_path / "vq", "maskgit": tmp_path / "maskgit", "steps": 2}
    given = {"label": ("patches", "scratches"), "count": 2, "method": method, "size": 64, **models}
    whole = DrawSettings(output=tmp_path / "whole", **given)
    drawing.draw(whole)
    once = drawing.write_one
    calls: list[tuple[str, int]] = []

    def killed(label: str, number: int, *rest: Any) -> Any:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((label, number))
        return once(label, number, *rest)

    monkeypatch.setattr(drawing, "write_one", killed)
    settings = DrawSettings(output=tmp_path / "out", **given)
    with pytest.raises(KeyboardInterrupt):
        drawing.draw(settings)
    assert not (settings.output / "manifest.csv").exists()
    assert calls == [("patches", 0), ("patches", 1), ("scratches", 0)]
    again: list[tuple[str, int]] = []

    def watched(label: str, number: int, *rest: Any) -> Any:
        again.append((label, number))
        return once(label, number, *rest)

    monkeypatch.setattr(drawing, "write_one", watched)
    assert drawing.draw(settings).images == 4
    assert again == [("scratches", 1)]
    assert len(files_of(settings.output)) == (8 if method == "procedural" else 4), "with masks, or without"
    assert files_of(settings.output) == files_of(whole.output)
    tables = [pd.read_parquet(one.output / "manifest.parquet") for one in (settings, whole)]
    first, second = (table.drop(columns="parameters") for table in tables)  # they name the output
    pd.testing.assert_frame_equal(first, second)


def test_a_defect_that_nobody_could_see_is_listed_and_not_written(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    image, mask = np.full(SIZE, 100, np.uint8), np.zeros(SIZE, np.uint8)
    image[40:80, 40:80], mask[40:80, 40:80] = 96, 255
    write_png(tmp_path / "faint/a.png", image)
    write_png(tmp_path / "faint_masks/a.png", mask)
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        write_png(tmp_path / f"plain/{name}.png", rng.integers(98, 103, SIZE).astype(np.uint8))
    folders = {"defects": tmp_path / "faint", "defect_masks": tmp_path / "faint_masks"}
    done = inserting.insert(settings(images=tmp_path / "plain", **folders))
    assert (done.images, done.defects, done.left_out) == (0, 0, {"invisible": 3})
    table = pd.read_parquet(settings().output / "manifest.parquet")
    assert set(table["image"]) == {""}
    assert files_of(settings().output) == {}


def test_the_place_can_be_named(
    photos: Path, settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    def box(**more: Any) -> tuple[float, float, int]:
        chosen = settings(images=photos / "grey.png", output=tmp_path / str(sorted(more)), **more)
        inserting.insert(chosen)
        (row,) = pd.read_parquet(chosen.output / "manifest.parquet").to_dict("records")
        return row["x"] + row["width"] / 2, row["y"] + row["height"] / 2, max(row["width"], row["height"])

    x, y, extent = box(at=(100, 60), size=50)
    assert (x, y) == (pytest.approx(100, abs=8), pytest.approx(60, abs=8))
    assert extent == pytest.approx(50, abs=12)
    region = np.zeros(SIZE, np.uint8)
    region[90:130, 20:70] = 255
    for name in ("regions/grey.png", "one.png"):
        write_png(tmp_path / name, region)
    for found in (box(masks=tmp_path / "regions"), box(mask=tmp_path / "one.png")):
        assert found[:2] == (pytest.approx(45, abs=8), pytest.approx(110, abs=8))


@pytest.mark.parametrize("method", ["transplant", "procedural", "drawn"])
def test_several_defects_lie_inside_the_masks_of_their_images(
    method: str, settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    """Two images of one name in two folders have a mask each, at the same path."""
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    models = {"tokenizer": tmp_path / "vq", "maskgit": tmp_path / "maskgit", "steps": 2}
    left, right = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    left[10:140, 5:80], right[20:130, 90:165] = 255, 255
    right[20:50, 90:120] = 0
    regions = {"a/1": left, "b/1": right}
    for number, (name, region) in enumerate(regions.items()):
        write_png(tmp_path / f"canvases/{name}.png", normal(number))
        write_png(tmp_path / f"regions/{name}{'_mask' * number}.png", region)
    places = {"images": tmp_path / "canvases", "masks": tmp_path / "regions"}
    chosen = settings(method=method, label=("patches",), per_image=3, **places, **models)
    done = inserting.insert(chosen)
    assert done.images >= (1 if method == "drawn" else 2), "models without training draw less to see"
    assert done.defects >= 3
    table = pd.read_parquet(chosen.output / "manifest.parquet")
    for canvas, rows in table[table["visible"]].groupby("canvas"):
        mask = np.asarray(Image.open(chosen.output / rows["mask"].iloc[0])) > 0
        name = Path(str(canvas)).relative_to(tmp_path / "canvases").with_suffix("").as_posix()
        assert not (mask & (regions[name] == 0)).any(), name


def test_a_mask_that_was_added_between_two_calls_is_found(
    photos: Path, settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    chosen = settings(images=photos / "grey.png", masks=tmp_path / "regions")
    (tmp_path / "regions").mkdir()
    with pytest.raises(UserError, match="holds no mask for"):
        inserting.insert(chosen)
    region = np.zeros(SIZE, np.uint8)
    region[40:110, 40:110] = 255
    write_png(tmp_path / "regions/grey_mask.PNG", region)
    shutil.rmtree(chosen.output)
    assert inserting.insert(chosen).images == 1


def test_photographs_without_a_mask_are_counted(
    defects: tuple[Path, Path],
    settings: Callable[..., InsertSettings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(defects[0], tmp_path / "blots")
    assert inserting.insert(settings()).unmasked == 0
    write_png(tmp_path / "blots/extra.png", normal(1))
    chosen = settings(defects=tmp_path / "blots", output=tmp_path / "more", label=("blot", "stain"))
    assert inserting.insert(chosen).unmasked == 1
    both = ["--images", str(chosen.images), "--output", str(tmp_path / "cli"), "--method", "transplant"]
    both += ["--defects", str(tmp_path / "blots"), "--defect-masks", str(defects[1])]
    with pytest.raises(SystemExit) as stop:
        main(["insert", "--label", "blot", *both])
    assert stop.value.code == 0
    assert "left out 1 photograph of defects without a mask\n" in capsys.readouterr().out


def test_what_is_wrong_is_named(
    photos: Path, settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    grey = photos / "grey.png"
    write_png(tmp_path / "empty.png", np.zeros(SIZE, np.uint8))
    write_png(tmp_path / "small.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "link").symlink_to(photos / "line 2")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"method": "drawn"}, r"models/vq does not exist: .*`make repro` trains them.*--method transplant"),
        ({"images": tmp_path / "nothing"}, "holds no image"),
        ({"images": grey, "at": (500, 10)}, r"--at 500,10 lies outside .* \(170 x 150 pixels\)"),
        ({"images": grey, "mask": tmp_path / "empty.png"}, "empty.png marks nothing"),
        ({"images": grey, "mask": tmp_path / "small.png"}, "small.png: 9x9 is smaller than 16x16"),
        ({"images": grey, "masks": tmp_path / "nothing"}, "holds no mask for .*grey.png: name it grey.png"),
        ({"defect_masks": tmp_path / "nothing"}, "no photograph in .* has a mask of its name"),
        ({"defects": tmp_path / "none"}, "none does not exist: name the folder of photographs with defects"),
        ({"defect_masks": None}, "holds no class folders"),
        ({"images": grey, "format": "mvtec"}, "the images show 1 scene"),
    ]  # fmt: skip
    for number, (given, message) in enumerate(wrong):
        with pytest.raises(UserError, match=message):
            inserting.insert(settings(output=tmp_path / f"o{number}", **given))
    for given, message in (
        ({"mask": grey, "at": (1, 1)}, "give only one of mask and at"),
        ({"at": (1, 1), "per_image": 2}, "per_image must be 1"),
        ({"mask": grey, "size": 9}, "mask and size exclude each other"),
        ({"output": photos / "out"}, "lies inside --images"),
        ({"masks": tmp_path}, "lies inside --masks"),
        ({"defects": None}, "transplant needs defects"),
        ({"defects": photos / "line 2"}, "--defects .*line 2 lies inside --images .*every file counts"),
        ({"defects": photos}, "--defects .* lies inside --images"),
        ({"defect_masks": tmp_path / "link"}, "--defect-masks .*link lies inside --images"),
        ({"masks": photos / "line 2"}, "--masks .*line 2 lies inside --images"),
        ({"label": ("blot", "Good")}, "--label Good: 'good' names images without a defect"),
        ({"label": ("..",)}, r"--label '\.\.' is no class of defects"),
        ({"label": (".",)}, r"--label '\.' is no class of defects"),
    ):
        with pytest.raises(ValueError, match=message):
            settings(**given)


def test_images_whose_names_collide_are_all_written(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    """`a_b.png` and `a/b.png`, and two that differ in case only: each keeps a file of its own."""
    names = ["a_b.png", "a/b.png", "c.bmp", "c.png", "D.png", "d.bmp"]
    for number, name in enumerate(names):
        (tmp_path / "canvases" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(normal(number)).save(tmp_path / "canvases" / name)
    chosen = settings(images=tmp_path / "canvases", label=("blot",))
    assert inserting.insert(chosen).images == len(names)
    table = pd.read_parquet(chosen.output / "manifest.parquet")
    assert len({name.lower() for name in table["image"]}) == len(names)
    for row in table.to_dict("records"):
        canvas, made = (
            read_photograph(path).pixels.astype(int) for path in (row["canvas"], chosen.output / row["image"])
        )
        assert (canvas != made).mean() < 0.5, row["image"]


def test_classes_and_images_that_give_one_name_are_refused(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    for name in ("b_c.png", "c.png"):
        write_png(tmp_path / "canvases" / name, normal(0))
    chosen = settings(images=tmp_path / "canvases", label=("a", "a_b"))
    with pytest.raises(UserError, match=r"'a_b' in .*c\.png and 'a' in .*b_c\.png would both be called"):
        inserting.insert(chosen)


def test_mvtec_output_is_a_complete_dataset_of_this_project(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    for number in range(12):
        write_png(tmp_path / f"many/{number}.png", normal(20 + number))
    chosen = settings(images=tmp_path / "many", format="mvtec")
    done = inserting.insert(chosen)
    counts, rejected = build_inspection("mvtec_ad", chosen.output, tmp_path / "prepared", 0)
    assert rejected == []
    assert counts.test["blot"] == done.images > 0
    assert counts.train + counts.validation + counts.canvas + counts.test["good"] == 12
    assert counts.train > 0
    used = {Path(canvas).stem for canvas in pd.read_parquet(chosen.output / "manifest.parquet")["canvas"]}
    assert used.isdisjoint(path.stem for path in (chosen.output / "train/good").iterdir())
    for path in (chosen.output / "train/good").iterdir():
        assert sha256_file(path) == sha256_file(tmp_path / "many" / path.name)


def test_mvtec_output_of_other_files_than_png_is_read_by_anomalib(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    """JPEG and 16-bit TIFF, of which anomalib takes none, and names that sort otherwise than their masks."""
    pytest.importorskip("anomalib", reason="anomalib is not installed")
    from anomalib.data.datasets.image.mvtecad import make_mvtec_ad_dataset

    (tmp_path / "canvases").mkdir()
    for number in range(12):
        Image.fromarray(normal(20 + number)).save(tmp_path / f"canvases/1{'0' * number}.jpg", quality=95)
    deep = {f"d{number}": normal(40 + number).astype(np.uint16) * 16 for number in range(4)}
    for name, pixels in deep.items():
        tifffile.imwrite(tmp_path / f"canvases/{name}.tif", pixels)
    chosen = settings(images=tmp_path / "canvases", format="mvtec")
    inserting.insert(chosen)
    train = make_mvtec_ad_dataset(chosen.output, split="train")
    test = make_mvtec_ad_dataset(chosen.output, split="test")
    assert len(train) > 0
    assert len(train) + (test["label"] == "good").sum() == 16
    defective = test[test["label"] == "blot"]
    table = pd.read_parquet(chosen.output / "manifest.parquet")
    table = table[table["image"] != ""]
    masks = dict(zip(table["image"], table["mask"], strict=True))
    assert len(defective) == len(masks) > 0
    for row in defective.to_dict("records"):
        image, mask = (
            Path(row[name]).relative_to(chosen.output).as_posix() for name in ("image_path", "mask_path")
        )
        assert masks[image] == mask
    for path in chosen.output.glob("*/good/d*"):
        assert np.array_equal(np.asarray(Image.open(path)), deep[path.stem])


def test_voc_annotations_of_a_run_name_the_channels_of_their_files(
    settings: Callable[..., InsertSettings],
) -> None:
    inserting.insert(settings(format="voc"))
    depths = {}
    for path in (settings().output / "Annotations").iterdir():
        tree = ElementTree.parse(path).getroot()
        image = read_photograph(settings().output / "JPEGImages" / tree.findtext("filename")).pixels
        depths[path.stem] = tree.findtext("size/depth")
        assert depths[path.stem] == ("1" if image.ndim == 2 else "3")
    assert set(depths.values()) == {"1", "3"}


def test_a_normal_image_that_cannot_be_copied_is_named(
    settings: Callable[..., InsertSettings], tmp_path: Path
) -> None:
    for number in range(6):
        write_png(tmp_path / f"canvases/{number}.png", normal(20 + number))
    for number in range(6):
        tifffile.imwrite(tmp_path / f"canvases/deep{number}.tif", normal(30 + number).astype(np.uint16) * 16)
        tifffile.imwrite(tmp_path / f"canvases/wide{number}.tif", normal(40 + number).astype(np.int32))
    done = inserting.insert(settings(images=tmp_path / "canvases", format="mvtec"))
    assert sorted(Path(reason.split(":")[0]).name for reason in done.unreadable) == [
        f"wide{number}.tif" for number in range(6)
    ]


def test_an_image_that_cannot_be_read_is_named_after_all_others_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "mixed/a.png", normal(3))
    (tmp_path / "mixed/b.png").write_text("no image")
    paths = ["--images", str(tmp_path / "mixed"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(["insert", "--label", "scratch", "--method", "procedural", *paths])
    assert capsys.readouterr().out.startswith("1 image with 1 defect: ")
    assert "left out 1 image that cannot be read:\n" in str(stop.value.code)
    assert "b.png: unreadable image" in str(stop.value.code)
    assert len(files_of(tmp_path / "out")) == 2


def test_an_image_whose_name_is_no_text_is_named_after_all_others_are_done(tmp_path: Path) -> None:
    write_png(tmp_path / "mixed/a.png", normal(3))
    odd = tmp_path / "mixed" / os.fsdecode("划痕.png".encode("gbk"))
    shutil.copyfile(tmp_path / "mixed/a.png", odd)
    arguments = [
        "insert",
        "--label",
        "scratch",
        "--method",
        "procedural",
        "--images",
        str(tmp_path / "mixed"),
    ]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path / "out")])
    assert r"\xbb\xae\xba\xdb.png: its name is not UTF-8: rename it" in str(stop.value.code)
    assert len(files_of(tmp_path / "out")) == 2
    (tmp_path / "mixed/a.png").unlink()
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path / "none")])
    assert "its name is not UTF-8: rename it" in str(stop.value.code)


def test_more_images_of_a_class_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    def draw(count: int, output: Path) -> dict[str, str]:
        settings = DrawSettings(label=("crazing",), output=output, count=count, method="procedural", size=64)
        assert drawing.draw(settings).images == count
        return files_of(output)

    few = draw(2, tmp_path / "a")
    more = draw(4, tmp_path / "a")
    assert len(few) == 4, "images and masks"
    assert few.items() <= more.items()
    assert draw(4, tmp_path / "b") == more
    (row, *_) = pd.read_parquet(tmp_path / "a/manifest.parquet").to_dict("records")
    assert np.array_equal(drawing.remake(row), np.asarray(Image.open(tmp_path / "a" / row["image"])))


def test_whole_images_are_drawn_by_the_models(tmp_path: Path) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    models = ["--tokenizer", str(tmp_path / "vq"), "--maskgit", str(tmp_path / "maskgit"), "--steps", "2"]
    with pytest.raises(SystemExit) as stop:
        main(["draw", "--label", "patches", "--count", "2", "--output", str(tmp_path / "out"), *models])
    assert stop.value.code == 0
    table = pd.read_parquet(tmp_path / "out/manifest.parquet")
    assert table["image"].tolist() == [f"images/patches/patches_0000{k}.png" for k in range(2)]
    for row in table.to_dict("records"):
        with Image.open(tmp_path / "out" / row["image"]) as image:
            assert image.size == (64, 64)
            assert np.array_equal(drawing.remake(row), np.asarray(image))
        assert len(row["maskgit_sha256"]) == 64
    with pytest.raises(UserError, match=r"00001\.png was made by metaldefect 0\.0\.1, and this is \d"):
        drawing.remake(row | {"version": "0.0.1"})
    with pytest.raises(UserError, match=r"vq does not exist: .*--method procedural needs no model"):
        drawing.draw(DrawSettings(label=("patches",), output=tmp_path / "o", tokenizer=tmp_path / "no/vq"))
    unknown = DrawSettings(label=("moth",), output=tmp_path / "o", method="procedural")
    with pytest.raises(UserError, match="no procedural class is called 'moth': there are crazing"):
        drawing.draw(unknown)
