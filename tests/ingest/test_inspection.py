"""The detector's dataset comes out in MVTec AD layout with three fair splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.artifacts import sha256_file
from metaldefect.errors import UserError
from metaldefect.ingest.inspection import build_inspection
from metaldefect.inspection.layout import read_scenes
from metaldefect.inspection.provider import RealDatasetProvider


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.png")}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_mvtec_layout_gains_a_validation_split(inspection_folder, tmp_path):
    counts, rejected = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=3)
    assert rejected == []
    assert counts.train + counts.validation + counts.canvas == 12
    assert counts.validation >= 1
    assert counts.canvas >= 2
    assert counts.test == {"good": 4, "pits": 3}
    split = [names(tmp_path / "out" / name / "good") for name in ("train", "validation", "canvas")]
    assert len(set().union(*split)) == sum(map(len, split)) == 12
    scenes = read_scenes(tmp_path / "out")
    assert set(scenes) == {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*.png")
        if "ground_truth" not in path.parts
    }
    assert len(set(scenes.values())) == 19, "the textures are all different"
    assert names(tmp_path / "out/ground_truth/pits") == {"000_mask.png", "001_mask.png", "002_mask.png"}
    source = inspection_folder / "test/pits/001.png"
    assert np.array_equal(pixels(tmp_path / "out/test/pits/001.png"), pixels(source))


@pytest.fixture
def tiles(tmp_path: Path, texture, save) -> Path:
    """Magnetic tiles: 20 normal ones under three exposures each, one defect with an empty mask."""
    root = tmp_path / "tiles"
    for k in range(20):
        tile = texture(k, 80)
        for exposure in range(3):
            bright = (tile * (0.6 + 0.2 * exposure)).astype(np.uint8)
            path = root / f"MT_Free/Imgs/exp{exposure}_num_{3 * k + exposure}.jpg"
            save(path, bright, quality=95)
            save(path.with_suffix(".png"), np.zeros((80, 80), np.uint8))
    for k, level in ((1, 0), (2, 200)):
        save(root / f"MT_Uneven/Imgs/exp1_num_{k}.jpg", texture(500 + k, 80))
        save(root / f"MT_Uneven/Imgs/exp1_num_{k}.png", np.full((80, 80), level, np.uint8))
    return root


def test_exposures_of_one_tile_stay_in_one_split(tiles, tmp_path):
    out = tmp_path / "out"
    counts, _ = build_inspection("magnetic_tile", tiles, out, seed=0)
    split_of_tile: dict[int, set[str]] = {}
    for split in ("train", "validation", "canvas", "test"):
        for name in names(out / split / "good"):
            number = int(name.removesuffix(".png").split("_")[-1])
            split_of_tile.setdefault(number // 3, set()).add(split)
    assert len(split_of_tile) == 20
    assert all(len(splits) == 1 for splits in split_of_tile.values())
    assert counts.train + counts.validation + counts.canvas + counts.test["good"] == 60
    scenes = read_scenes(out)
    assert len({scene for path, scene in scenes.items() if "/good/" in path}) == 20
    for path, scene in scenes.items():
        if "/good/" in path:
            first = int(Path(path).stem.split("_")[-1]) // 3 * 3
            exposures = [
                p for p in scenes if Path(p).stem.split("_")[-1] in map(str, range(first, first + 3))
            ]
            assert all(scenes[p] == scene for p in exposures if "/good/" in p)
    assert counts.empty_masks == ["uneven/exp1_num_1"]
    assert pixels(out / "ground_truth/uneven/exp1_num_1_mask.png").max() == 0
    assert np.unique(pixels(out / "ground_truth/uneven/exp1_num_2_mask.png")).tolist() == [255]


def test_a_tile_that_is_added_moves_no_other(tiles, tmp_path, texture, save):
    build_inspection("magnetic_tile", tiles, tmp_path / "before", seed=0)
    save(tiles / "MT_Free/Imgs/exp0_num_0000.jpg", texture(99, 80))
    build_inspection("magnetic_tile", tiles, tmp_path / "after", seed=0)
    for split in ("train", "validation", "canvas", "test"):
        before, after = (names(tmp_path / when / split / "good") for when in ("before", "after"))
        assert before <= after


def test_a_defect_without_a_mask_is_tested_as_an_image_and_counted(inspection_folder, tmp_path):
    (inspection_folder / "ground_truth/pits/001_mask.png").unlink()
    counts, rejected = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0)
    assert rejected == []
    assert (counts.test["pits"], counts.without_mask) == (3, 1)
    masks = {item.name: item.mask is not None for item in RealDatasetProvider(tmp_path / "out").test()}
    assert [masks[f"pits/00{k}"] for k in range(3)] == [True, False, True]


def test_a_good_image_whose_mask_marks_a_defect_is_refused(tiles, tmp_path, save):
    save(tiles / "MT_Free/Imgs/exp0_num_0.png", np.full((80, 80), 255, np.uint8))
    _, rejected = build_inspection("magnetic_tile", tiles, tmp_path / "out", seed=0)
    assert [(r.path, r.reason) for r in rejected] == [
        (
            "magnetic_tile/MT_Free/Imgs/exp0_num_0.jpg",
            "its label says good, but its mask marks a defect: correct one of the two",
        )
    ]


def test_defects_that_models_learn_from_are_no_test(inspection_folder, tmp_path):
    learnt = {sha256_file(inspection_folder / "test/pits/002.png")}
    counts, _ = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", 0, learnt)
    assert (counts.test["pits"], counts.trained_on) == (2, 1)
    assert names(tmp_path / "out/test/pits") == {"000.png", "001.png"}


def test_good_images_alone_make_a_dataset(tmp_path, texture, save):
    for k in range(20):
        save(tmp_path / f"plant/good/{k}.png", texture(k))
    counts, rejected = build_inspection("folder", tmp_path / "plant", tmp_path / "out", seed=0)
    assert rejected == []
    assert set(counts.test) == {"good"}
    assert counts.train + counts.validation + counts.canvas + counts.test["good"] == 20


def test_a_published_split_that_leaks_is_counted(inspection_folder, tmp_path, save):
    copy = pixels(inspection_folder / "train/good/004.png")
    save(inspection_folder / "test/good/copy.png", np.ascontiguousarray(copy[:, ::-1]))
    counts, _ = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0)
    assert counts.scenes_across_splits == 1
    scenes = read_scenes(tmp_path / "out")
    twins = {path for path, scene in scenes.items() if scene == scenes["test/good/copy.png"]}
    assert twins == {"test/good/copy.png", "train/good/004.png"}, "what leaks is not held out of train"


@pytest.mark.parametrize("seed", range(4))
def test_a_published_validation_image_that_is_in_test_too_chooses_nothing(
    inspection_folder, tmp_path, save, texture, seed
):
    save(inspection_folder / "validation/good/own.png", texture(1300, 48))
    copy = pixels(inspection_folder / "test/good/001.png")
    save(inspection_folder / "validation/good/copy.png", np.ascontiguousarray(np.rot90(copy)))
    counts, _ = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed)
    assert names(tmp_path / "out/validation/good") == {"own.png"}
    assert counts.scenes_across_splits == 1


def write_scenes_of_train(folder: Path, texture, save, scenes: int) -> None:
    """Replace the training normals: three encodings of each of `scenes` pieces."""
    for path in (folder / "train/good").iterdir():
        path.unlink()
    for scene in range(scenes):
        image = texture(2000 + scene, 48)
        for turn in range(3):
            save(folder / f"train/good/{scene}_{turn}.png", np.ascontiguousarray(np.rot90(image, turn)))


def test_two_scenes_give_one_to_train_on_and_one_to_validate_on(inspection_folder, tmp_path, texture, save):
    write_scenes_of_train(inspection_folder, texture, save, 2)
    counts, _ = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0)
    assert (counts.train, counts.validation, counts.canvas) == (3, 3, 0)
    assert {name[0] for name in names(tmp_path / "out/validation/good")} in ({"0"}, {"1"})


def test_four_scenes_leave_canvases_for_both_purposes(inspection_folder, tmp_path, texture, save):
    write_scenes_of_train(inspection_folder, texture, save, 4)
    counts, _ = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0)
    assert (counts.train, counts.validation, counts.canvas) == (3, 3, 6)


def test_one_scene_cannot_be_split(inspection_folder, tmp_path, texture, save):
    write_scenes_of_train(inspection_folder, texture, save, 1)
    with pytest.raises(UserError, match=r"fewer than two scenes.*add normal images of another piece"):
        build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0)


def test_normals_that_are_all_in_test_too_cannot_be_held_out(inspection_folder, tmp_path, texture, save):
    write_scenes_of_train(inspection_folder, texture, save, 2)
    for scene in range(2):
        save(inspection_folder / f"test/good/twin_{scene}.png", texture(2000 + scene, 48))
    with pytest.raises(UserError, match="every scene of the normal training images is in another split"):
        build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0)


def test_a_prepared_dataset_keeps_its_splits(inspection_folder, tmp_path):
    build_inspection("mvtec_ad", inspection_folder, tmp_path / "once", seed=0)
    build_inspection("mvtec_ad", tmp_path / "once", tmp_path / "twice", seed=5)
    for split in ("train", "validation", "canvas", "test"):
        assert names(tmp_path / "once" / split / "good") == names(tmp_path / "twice" / split / "good")


def test_exposures_of_a_defect_are_one_scene(tiles, tmp_path, texture, save):
    tile = texture(900, 80)
    for exposure in range(3):
        path = tiles / f"MT_Crack/Imgs/exp{exposure}_num_{exposure}.jpg"
        save(path, (tile * (0.6 + 0.2 * exposure)).astype(np.uint8), quality=95)
        save(path.with_suffix(".png"), np.full((80, 80), 255, np.uint8))
    build_inspection("magnetic_tile", tiles, tmp_path / "out", seed=0)
    scenes = read_scenes(tmp_path / "out")
    assert len({scene for path, scene in scenes.items() if path.startswith("test/crack/")}) == 1
    assert len({scene for path, scene in scenes.items() if path.startswith("test/uneven/")}) == 2


def test_a_dataset_without_normal_images_is_an_error(classes_folder, tmp_path):
    with pytest.raises(UserError, match=r"own holds no normal images"):
        build_inspection("folder", classes_folder, tmp_path / "out", seed=0)


def test_folders_with_other_names_for_good_and_folders_to_leave_out(tmp_path, texture, save):
    root = tmp_path / "plant"
    for k in range(20):
        save(root / f"ok/{k}.png", texture(k))
    for k in range(3):
        save(root / f"Kratzer/{k}.png", texture(100 + k))
        save(root / f"unsorted/{k}.png", texture(200 + k))
    counts, rejected = build_inspection(
        "folder",
        root,
        tmp_path / "out",
        seed=0,
        labels={"ok": "good", "Kratzer": "scratch"},
        ignore=["unsorted"],
    )
    assert rejected == []
    good = counts.test.pop("good")
    assert counts.train + counts.validation + counts.canvas + good == 20
    assert counts.test == {"scratch": 3}


def test_a_renamed_label_that_no_image_has_is_an_error(inspection_folder, tmp_path):
    with pytest.raises(UserError, match=r"maps 'ok', but no image has this label; labels found: 'good', 'p"):
        build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0, labels={"ok": "good"})


def test_what_was_called_good_and_is_renamed_shows_a_defect(inspection_folder, tmp_path):
    with pytest.raises(UserError, match=r"holds no normal images"):
        build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", 0, labels={"good": "worn"})
