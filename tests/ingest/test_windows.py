"""Small defects of photographs are learnt at their own scale, in windows around them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from metaldefect.ingest.adapters.records import Box
from metaldefect.ingest.examine import DatasetSpec
from metaldefect.ingest.merge import InspectionSpec, MergeOptions, merge_datasets
from metaldefect.ingest.samples import read_table
from metaldefect.ingest.windows import WINDOWS, Window, windows_around
from metaldefect.synthesis.insertion_set import window_sides

LARGE = (3000, 4000)


def marked(*parts: tuple[slice, slice], shape: tuple[int, int] = LARGE) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for part in parts:
        mask[part] = 255
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        # A defect of 60 px: the window is three times as large
        (marked(np.s_[1000:1040, 2000:2060]), [Window(930, 1940, 180)]),
        # One of 20 px: half as large as an image, which enlarges it twice
        (marked(np.s_[1000:1020, 2000:2020]), [Window(946, 1946, 128)]),
        # One of 300 px: three times as large
        (marked(np.s_[1000:1300, 2000:2060]), [Window(700, 1580, 900)]),
        # At the border the window moves inside
        (marked(np.s_[0:30, 3970:4000]), [Window(0, 3872, 128)]),
        # Parts nearer than 80 px, 2 % of the longer side, are one defect; others have their own window
        (marked(np.s_[100:140, 100:140], np.s_[100:140, 170:200]), [Window(0, 0, 300)]),
        (
            marked(np.s_[100:140, 100:140], np.s_[2000:2060, 3000:3060]),
            [Window(1940, 2940, 180), Window(56, 56, 128)],
        ),
        # A window that holds another defect as a whole serves both
        (marked(np.s_[1000:1300, 2000:2060], np.s_[1450:1480, 2000:2030]), [Window(700, 1580, 900)]),
        # Large defects are learnt in the whole photograph, and a mask without a defect cuts nothing
        (marked(np.s_[100:950, 100:200]), []),
        (marked(), []),
        # Small photographs are cut where that enlarges their defects by half or more
        (marked(np.s_[100:110, 200:210], shape=(240, 320)), [Window(41, 141, 128)]),
        (marked(np.s_[10:14, 10:14], shape=(190, 190)), []),
        (marked(np.s_[10:14, 10:14], shape=(100, 400)), []),
    ],
)
def test_where_windows_lie(mask: np.ndarray, expected: list[Window]) -> None:
    shape = (mask.shape[0], mask.shape[1])
    assert list(windows_around(mask, (), shape, 256)) == expected


def test_boxes_stand_in_for_a_mask_that_is_not_known() -> None:
    boxes = (Box("dent", 2000, 1000, 2059, 1039), Box("dent", 10, 10, 20, 20))
    first, second = windows_around(None, boxes, LARGE, 256)
    assert (first, second) == (Window(930, 1940, 180), Window(0, 0, 128))
    assert first.boxes_inside(boxes) == (Box("dent", 60, 70, 119, 109),)
    assert windows_around(None, (), LARGE, 256) == ()


def test_merge_cuts_windows_and_keeps_them_in_one_split(
    tmp_path: Path, texture, save, inspection_folder: Path
) -> None:
    for label, whole in (("pits", 3), ("scratches", 6)):
        for k in range(whole):
            save(tmp_path / "plant" / label / f"{k}.png", texture(k + 100 * len(label), 70))
    mask = marked(np.s_[100:130, 100:130], np.s_[700:740, 1000:1030], shape=(900, 1200))
    larges = {}
    for seed, name in enumerate(("pits/large", "pits/other", "scratches/large")):
        noise = gaussian_filter(np.random.default_rng(seed).normal(128, 60, (900, 1200)), 1)
        larges[name] = np.clip(noise, 0, 255).astype(np.uint8)
        save(tmp_path / f"plant/{name}.png", larges[name])
        save(tmp_path / f"plant/{name}_mask.png", mask)
    result = merge_datasets(
        [DatasetSpec("folder", tmp_path / "plant", name="plant")],
        InspectionSpec("mvtec_ad", inspection_folder),
        tmp_path / "merged",
        tmp_path / "reports",
        MergeOptions(["pits", "scratches"], 64, 0.2, 0.2, seed=1),
    )
    table = read_table(tmp_path / "merged/samples.parquet")
    cut = table[table["source_path"] == "pits/large.png"]
    assert cut["path"].tolist() == ["images/pits/plant_large_w0.png", "images/pits/plant_large_w1.png"]
    assert len(table) == 3 + 6 + 3 * 2
    assert cut[["group", "scene", "split"]].drop_duplicates().shape == (1, 3)
    # The larger defect first: 40 px in a window of 120, which is shrunk to 64
    window = np.s_[660:780, 955:1075]
    expected = np.asarray(
        Image.fromarray(np.ascontiguousarray(larges["pits/large"][window])).resize((64, 64), Image.BILINEAR)
    )
    np.testing.assert_array_equal(Image.open(tmp_path / "merged" / cut["path"].iloc[0]), expected)
    seen = np.asarray(Image.open(tmp_path / "merged" / cut["mask_path"].iloc[0])) > 0
    assert 0.05 < seen.mean() < 0.12  # 40 x 30 of 120 x 120 pixels
    assert result.summary["dropped_duplicates"] == 0
    assert result.summary["notes"] == [
        "plant: 6 windows were cut around the small defects of photographs (3), so that they are learnt at"
        " their own scale"
    ]
    # The median of sides 120 and 90; most scratches are learnt in whole photographs
    assert json.loads((tmp_path / "merged" / WINDOWS).read_text()) == {"pits": 105}
    assert window_sides(tmp_path / "merged") == {"pits": 105}


def test_without_large_photographs_nothing_is_cut(tmp_path: Path, classes_folder, inspection_folder) -> None:
    merge_datasets(
        [DatasetSpec("folder", classes_folder, name="own")],
        InspectionSpec("mvtec_ad", inspection_folder),
        tmp_path / "merged",
        tmp_path / "reports",
        MergeOptions(["pits", "scratches"], 40, 0.2, 0.2, seed=1),
    )
    assert not (tmp_path / "merged" / WINDOWS).exists()
    assert window_sides(tmp_path / "merged") == {}


@pytest.mark.parametrize("with_small_defects", [2, 4])
def test_a_class_of_small_photographs_is_learnt_at_one_scale(
    tmp_path: Path, texture, save, inspection_folder: Path, with_small_defects: int
) -> None:
    for k in range(6):
        extent = 8 if k < with_small_defects else 60
        mask = marked(np.s_[20 : 20 + extent, 20 : 20 + extent], shape=(96, 96))
        save(tmp_path / f"plant/pores/{k}.png", texture(k, 96))
        save(tmp_path / f"plant/pores/{k}_mask.png", mask)
        save(tmp_path / f"plant/scratches/{k}.png", texture(k + 100, 96))
    merge_datasets(
        [DatasetSpec("folder", tmp_path / "plant", name="plant")],
        InspectionSpec("mvtec_ad", inspection_folder),
        tmp_path / "merged",
        tmp_path / "reports",
        MergeOptions(["pores", "scratches"], 64, 0.2, 0.2, seed=1),
    )
    # Half of an image's side; most of the class decides
    assert window_sides(tmp_path / "merged") == ({"pores": 32} if with_small_defects == 4 else {})
    paths = read_table(tmp_path / "merged/samples.parquet")["path"]
    assert paths.str.contains("_w0.png").sum() == (4 if with_small_defects == 4 else 0)
