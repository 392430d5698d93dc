"""Inputs that users have reported about tools of this kind are read right, or refused by name."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.commands.detect import Model, frames_of, run_detection
from metaldefect.commands.sources import prepared_folder
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.ingest.adapters import read_dataset
from metaldefect.ingest.examine import DatasetSpec, examine_dataset
from metaldefect.ingest.inspection import build_inspection
from metaldefect.ingest.reading import read_known_mask
from metaldefect.inspection.provider import RealDatasetProvider
from tests.user_cases import CASES

SHARED = Path(__file__).parents[2] / "shared/cases"
Drawer = Callable[..., Path]


@pytest.fixture(params=["own", "shared"])
def drawn(request: pytest.FixtureRequest) -> Drawer:
    """drawn(case, folder): draw a case by this project's code, and by others' scripts where they are."""

    def draw(case: str, folder: Path, *arguments: str) -> Path:
        if request.param == "own":
            CASES[case](folder, *arguments)
            return folder
        command = [sys.executable, str(SHARED / f"{case}.py"), str(folder), *arguments]
        subprocess.run(command, check=True, capture_output=True, env={"PYTHONDONTWRITEBYTECODE": "1"})
        return folder

    if request.param == "shared" and not SHARED.is_dir():
        pytest.skip("no scripts of others that draw the cases")
    return draw


def prepared(root: Path, output: Path) -> RealDatasetProvider:
    """The dataset as `metaldefect train` prepares it."""
    return RealDatasetProvider(prepared_folder("mvtec_ad", root, 0, output))


def inferred(root: Path, output: Path, levels: Levels | None = None) -> dict[str, dict[str, str]]:
    """Rows of `scores.csv` by image; the score is the image's mean grey level."""
    model = Model(lambda image: (float(image.mean()), image.astype(np.float32)), 64, 100.0, levels)
    run_detection(model, frames_of(root, model.read), output)
    with (output / "scores.csv").open(encoding="utf-8", newline="") as stream:
        return {row["image"]: row for row in csv.DictReader(stream)}


@pytest.mark.parametrize("kind", ["twelve", "tiff"])
def test_12_bit_cameras(tmp_path, drawn, kind):
    root = drawn("16bit", tmp_path / "case")
    eight, deep = (prepared(root / name, tmp_path / name) for name in ("eight", kind))
    assert (eight.levels, deep.levels) == (None, Levels(0, 4095, clip=False))
    for one, other in zip(eight.test(), deep.test(), strict=True):
        # x * 16 * 255 / 4095 is x but for one level of rounding
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
    found, files = examine_dataset(DatasetSpec("mvtec_ad", root / kind), ["scratch"], 64)
    assert (len(found), files.rejected) == (2, [])
    for item, row in ((one, inferred(root / kind / "test", tmp_path / "maps", deep.levels)) for one in found):
        name = Path(item.source_path).relative_to("test").as_posix()
        assert float(row[name]["score"]) == pytest.approx(item.statistics.mean, abs=1)
    rows = inferred(root / kind / "test", tmp_path / "none")
    assert all("more than 8 bits per pixel" in row["refused"] for row in rows.values())


def merged(root: Path, output: Path) -> tuple[set[str], dict[str, str]]:
    """Images that `merge` reads from a folder of one class, and why it refuses others, by file name."""
    found, files = examine_dataset(DatasetSpec("folder", root, {"frames": "dent"}), ["dent"], 64)
    return {item.raw.path.name for item in found}, refusals(files.rejected)


def trained(root: Path, output: Path) -> tuple[set[str], dict[str, str]]:
    """The same of what `metaldefect train` prepares."""
    for name in ("0", "1", "2"):  # good images to train on, next to the frames
        pixels = np.random.default_rng(int(name)).integers(0, 256, (64, 64)).astype(np.uint8)
        (root / "good").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / f"good/{name}.png")
    _, rejected = build_inspection("folder", root, output, seed=0)
    written = {path.stem for path in (output / "test/frames").iterdir()}
    names = {path.name for path in (root / "frames").iterdir() if path.stem in written}
    return names, refusals(rejected)


def detected(root: Path, output: Path) -> tuple[set[str], dict[str, str]]:
    """The same of `metaldefect detect`."""
    rows = inferred(root / "frames", output)
    refused = {name: row["refused"].partition(": ")[2] for name, row in rows.items() if row["refused"]}
    return set(rows) - set(refused), refused


def refusals(rejected) -> dict[str, str]:
    return {file.path.rpartition("/")[2]: file.reason for file in rejected}


@pytest.mark.parametrize("door", [merged, trained, detected])
def test_odd_frames_are_read_or_refused_alike_at_every_door(tmp_path, drawn, door):
    read, refused = door(drawn("odd_frames", tmp_path / "case"), tmp_path / "out")
    assert read == {"plain_good.png", "plain_bad.png", "rgba_bad.png", "PALETTE.BMP"}
    deep = {"float01_bad.tif", "int32_bad.tif"}
    assert {name: reason for name, reason in refused.items() if name not in deep} == {
        "cmyk_bad.jpg": "mode CMYK: save it as grey or RGB",
        "pages_good_then_bad.tif": "file of 2 pages or frames: save each as a file of its own",
        "strip_4096x64.png": "4096x64 is a strip, which resizing to a square would squash: cut it into tiles"
        " at most 8 times as long as wide",
    }
    assert {name for name in refused if name in deep} == deep
    assert all("without known levels" in refused[name] for name in deep)


def test_alpha_and_palette_give_the_same_pixels(tmp_path, drawn):
    rows = inferred(drawn("odd_frames", tmp_path / "case") / "frames", tmp_path / "maps")
    assert rows["rgba_bad.png"]["score"] == rows["plain_bad.png"]["score"] == rows["PALETTE.BMP"]["score"]


@pytest.mark.parametrize("coding", ["m1", "m2", "voc", "alpha", "red"])
def test_mask_codings(tmp_path, drawn, coding):
    root = drawn("mask_levels", tmp_path / "case")
    plain, coded = (list(prepared(root / name, tmp_path / name).test()) for name in ("m255", coding))
    masks = [
        (one.mask, other.mask) for one, other in zip(plain, coded, strict=True) if one.label == "scratch"
    ]
    assert len(masks) == 2
    for one, other in masks:
        assert one is not None
        assert one.sum() == 18 * 24
        assert np.array_equal(one, other)


@pytest.mark.parametrize("naming", ["own_stem", "own_stem_bmp", "mask_bmp", "upper", "jpg_image"])
def test_mask_names(tmp_path, drawn, naming):
    root = drawn("mask_names", tmp_path / "case")
    test = prepared(root / naming, tmp_path / "work").test()
    assert [item.mask is not None for item in test if item.label != "good"] == [True, True]


def test_images_without_masks_and_good_images_alone(tmp_path, drawn):
    root = drawn("no_masks", tmp_path / "case")
    test = prepared(root / "mvtec", tmp_path / "a").test()
    assert [(item.label, item.mask) for item in test if item.label != "good"] == [("scratch", None)] * 2
    assert set(prepared(root / "onlygood", tmp_path / "b").test().labels) == {"good"}
    alone = prepared(root / "justtrain", tmp_path / "c")
    assert (len(alone.test()), len(alone.train()) > 0, len(alone.validation()) > 0) == (0, True, True)
    counts, rejected = build_inspection("folder", root / "folder", tmp_path / "d", seed=0)
    assert (counts.test["scratch"], counts.without_mask, rejected) == (3, 3, [])


@pytest.mark.parametrize("name", ["apple_train", "apple_test", "jupyter"])
def test_hidden_entries(tmp_path, drawn, name):
    root = drawn("hidden", tmp_path / "case") / name
    counts, rejected = build_inspection("mvtec_ad", root, tmp_path / "out", seed=0)
    assert (counts.train + counts.validation + counts.canvas, counts.test) == (9, {"good": 2, "scratch": 2})
    assert rejected == []
    rows = inferred(root, tmp_path / "maps")
    assert len(rows) == 9 + 4 + 2
    assert not any("/." in name or name.startswith(".") for name in rows)


def test_equal_names_have_one_output_each(tmp_path, drawn):
    root = drawn("same_names", tmp_path / "case")
    rows = inferred(root / "frames", tmp_path / "maps")
    assert len(rows) == 9
    assert len(list((tmp_path / "maps").rglob("*.heat.png"))) == 9
    counts, rejected = build_inspection("mvtec_ad", root / "twins", tmp_path / "out", seed=0)
    assert (counts.train + counts.validation + counts.canvas, counts.test) == (18, {"good": 2, "scratch": 3})
    assert len(list((tmp_path / "out").glob("*/*/*.png"))) == 18 + 5 + 1
    assert rejected == []
    assert ["the name of this mask fits 000.jpg and 000.png" in note for note in counts.notes] == [True]


def test_names_of_any_bytes(tmp_path, drawn):
    rows = inferred(drawn("bytes_name", tmp_path / "case") / "frames", tmp_path / "maps")
    assert sorted(rows) == ["\\xbb\\xae\\xba\\xdb1.png", "a0.png", "a2.png"]
    assert all(row["score"] and not row["refused"] for row in rows.values())


def test_gc10_as_it_is_published(tmp_path, drawn):
    root = drawn("gc10", tmp_path / "case") / "gc10"
    samples, files = read_dataset("gc10_det", root)
    assert len(samples) == 17
    labels = {box.label for sample in samples for box in sample.boxes}
    assert labels == {"punching_hole", "welding_line", "crease", "waist_folding"}
    assert {r.path.rpartition("/")[2]: r.reason for r in files.rejected} == {
        "img_01_00002.xml": "box '1_chongkong' (60, 60, 5, 5) has its corners swapped",
        "img_02_00000.xml": "box label 'd' does not begin with a class number, 1 to 10",
    }


def test_what_is_derived_from_changed_images_is_made_anew(tmp_path, drawn):
    root = drawn("stale", tmp_path / "case")
    before = RealDatasetProvider(prepared_folder("magnetic_tile", root, 0, tmp_path / "work"))
    sizes = {label: before.test().labels.count(label) for label in ("blowhole",)}
    wrong = next(item.mask.sum() for item in before.test() if item.mask is not None)
    drawn("stale", root, "mend")
    after = RealDatasetProvider(prepared_folder("magnetic_tile", root, 0, tmp_path / "work"))
    assert (sizes["blowhole"], after.test().labels.count("blowhole")) == (2, 5)
    mended = next(item.mask.sum() for item in after.test() if item.mask is not None)
    assert (wrong, mended) == (100, 18 * 24)


def test_a_run_may_leave_out_as_many_files_as_it_is_told(tmp_path, drawn):
    root = drawn("16bit", tmp_path / "case") / "eight"
    (root / "train/good/broken.png").write_text("no image")
    with pytest.raises(UserError, match=r"1 file\(s\) cannot be used and max_rejected is 0"):
        prepared_folder("mvtec_ad", root, 0, tmp_path / "work")
    assert prepared_folder("mvtec_ad", root, 0, tmp_path / "work", None, 1).is_dir()


# ------------------------------------------------------------------------------------ every case, every door


@dataclass(frozen=True)
class Expected:
    """What every door must make of a drawn folder.

    Attributes:
        case: name in `CASES`.
        folder: of the dataset, inside what the case draws.
        adapter: its layout.
        images: read at the merge and in training.
        masked: those among them with a defect and a mask that marks it.
        refused: files.
        frames: folder inside the dataset that `detect` reads, and images in it.
        has_normals: whether a detector can be trained on it.
    """

    case: str
    folder: str
    images: int
    masked: int
    adapter: str = "mvtec_ad"
    refused: int = 0
    frames: tuple[str, int] = ("test", 4)
    has_normals: bool = True


TABLE = [
    *(Expected("16bit", name, 13, 2) for name in ("eight", "twelve", "tiff")),
    *(Expected("mask_levels", name, 13, 2) for name in ("m255", "m1", "m2", "voc", "alpha", "red")),
    *(
        Expected("mask_names", name, 13, 2)
        for name in ("own_stem", "own_stem_bmp", "mask_bmp", "upper", "jpg_image")
    ),
    Expected("no_masks", "mvtec", 13, 0),
    Expected("no_masks", "onlygood", 11, 0, frames=("test", 2)),
    Expected("no_masks", "justtrain", 9, 0, frames=("train", 9)),
    Expected("no_masks", "folder", 15, 0, "folder", frames=("", 15)),
    *(Expected("hidden", name, 13, 2) for name in ("apple_train", "apple_test", "jupyter")),
    Expected("same_names", "twins", 23, 1, frames=("test", 5)),
    Expected("same_names", "frames", 9, 0, "folder", frames=("", 9), has_normals=False),
    Expected("bytes_name", "", 3, 0, "folder", frames=("", 3), has_normals=False),
    Expected("gc10", "gc10", 17, 0, "gc10_det", refused=2, frames=("", 17), has_normals=False),
    Expected("stale", "", 14, 2, "magnetic_tile", frames=("MT_Blowhole/Imgs", 4)),
]
Drawn = Callable[[Expected], Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """folder_of(expected): its folder, drawn once."""
    places: dict[str, Path] = {}

    def draw(expected: Expected) -> Path:
        if expected.case not in places:
            places[expected.case] = tmp_path_factory.mktemp(expected.case)
            CASES[expected.case](places[expected.case])
        return places[expected.case] / expected.folder

    return draw


def at_merge(expected: Expected, root: Path, output: Path) -> None:
    samples, _ = read_dataset(expected.adapter, root)
    labels = sorted({sample.source_label for sample in samples})
    found, files = examine_dataset(DatasetSpec(expected.adapter, root), labels, 64)
    masks = [
        read_known_mask(item.raw, (item.shape[0], item.shape[1])) for item in found if not item.raw.is_normal
    ]
    assert len(found) == expected.images
    assert sum(mask is not None and mask.any() for mask in masks) == expected.masked
    assert len(files.rejected) == expected.refused


def at_training(expected: Expected, root: Path, output: Path) -> None:
    if not expected.has_normals:
        with pytest.raises(UserError, match="holds no normal images: the detector trains only on those"):
            build_inspection(expected.adapter, root, output, seed=0)
        return
    counts, rejected = build_inspection(expected.adapter, root, output, seed=0)
    defects = sum(number for kind, number in counts.test.items() if kind != "good")
    assert counts.train + counts.validation + counts.canvas + sum(counts.test.values()) == expected.images
    assert defects - counts.without_mask - len(counts.empty_masks) == expected.masked
    assert len(rejected) == expected.refused


def at_detection(expected: Expected, root: Path, output: Path) -> None:
    folder, number = expected.frames
    rows = inferred(root / folder, output, Levels(0, 4095, clip=False))
    assert len(rows) == number
    assert all(row["score"] and not row["refused"] for row in rows.values())


@pytest.mark.parametrize("door", [at_merge, at_training, at_detection])
@pytest.mark.parametrize("expected", TABLE, ids=lambda expected: f"{expected.case}-{expected.folder}")
def test_every_case_at_every_door(tmp_path, folder_of, expected, door):
    door(expected, folder_of(expected), tmp_path / "out")
