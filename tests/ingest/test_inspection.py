"""The detector's dataset comes out in MVTec AD layout with three fair splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.ingest.inspection import build_inspection


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.png")}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_mvtec_layout_gains_a_validation_split(inspection_folder, tmp_path):
    counts, rejected = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=3)
    assert rejected == []
    assert counts.train + counts.validation == 12
    assert counts.validation >= 1
    assert counts.test == {"good": 4, "pits": 3}
    train, validation = names(tmp_path / "out/train/good"), names(tmp_path / "out/validation/good")
    assert not train & validation
    assert len(train | validation) == 12
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
    for split in ("train", "validation", "test"):
        for name in names(out / split / "good"):
            number = int(name.removesuffix(".png").split("_")[-1])
            split_of_tile.setdefault(number // 3, set()).add(split)
    assert len(split_of_tile) == 20
    assert all(len(splits) == 1 for splits in split_of_tile.values())
    assert counts.train + counts.validation + counts.test["good"] == 60
    assert counts.empty_masks == ["uneven/exp1_num_1"]
    assert pixels(out / "ground_truth/uneven/exp1_num_1_mask.png").max() == 0
    assert np.unique(pixels(out / "ground_truth/uneven/exp1_num_2_mask.png")).tolist() == [255]


def test_a_tile_that_is_added_moves_no_other(tiles, tmp_path, texture, save):
    build_inspection("magnetic_tile", tiles, tmp_path / "before", seed=0)
    save(tiles / "MT_Free/Imgs/exp0_num_0000.jpg", texture(99, 80))
    build_inspection("magnetic_tile", tiles, tmp_path / "after", seed=0)
    for split in ("train", "validation", "test"):
        before, after = (names(tmp_path / when / split / "good") for when in ("before", "after"))
        assert before <= after


def test_a_defect_without_a_mask_is_refused(inspection_folder, tmp_path):
    (inspection_folder / "ground_truth/pits/001_mask.png").unlink()
    counts, rejected = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0)
    assert counts.test["pits"] == 2
    assert [(r.path, r.reason) for r in rejected] == [
        ("mvtec_ad/test/pits/001.png", "defective image without a mask, so that its pixels cannot be scored")
    ]
    assert names(tmp_path / "out/test/pits") == {"000.png", "002.png"}


def test_a_published_split_that_leaks_is_counted(inspection_folder, tmp_path, save):
    copy = pixels(inspection_folder / "train/good/004.png")
    save(inspection_folder / "test/good/copy.png", np.ascontiguousarray(copy[:, ::-1]))
    counts, _ = build_inspection("mvtec_ad", inspection_folder, tmp_path / "out", seed=0)
    assert counts.scenes_across_splits == 1


def test_a_dataset_without_normal_images_is_an_error(classes_folder, tmp_path):
    with pytest.raises(UserError, match=r"own holds no normal images"):
        build_inspection("folder", classes_folder, tmp_path / "out", seed=0)
