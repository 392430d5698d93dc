"""The procedural datasets on disk: layouts, encodings, repeated photographs, and stability."""

from __future__ import annotations

import hashlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.procedural import datasets as procedural_datasets
from metaldefect.procedural.datasets import (
    DRAWN,
    SampleCounts,
    bounding_boxes,
    neu_det_photograph,
    write_sample_datasets,
    write_voc,
)

COUNTS = SampleCounts(neu_det=5, sd_saliency_900=4, x_sdd=2, normal=10, defective=2)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "sample"
    written = write_sample_datasets(root, COUNTS, seed=3)
    assert written == {"NEU-DET": 30, "SD-saliency-900": 12, "X-SDD": 8, "inspection": 22}
    return root


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != DRAWN)
    return {str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != DRAWN)


def test_layouts_are_the_published_ones(sample: Path) -> None:
    assert names(sample) == ["NEU-DET", "SD-saliency-900", "X-SDD", "inspection"]
    neu = sample / "NEU-DET"
    assert names(neu / "train/images/rolled-in_scale") == [f"rolled-in_scale_{k}.jpg" for k in (1, 2, 3, 4)]
    assert names(neu / "validation/images/crazing") == ["crazing_5.jpg"]
    assert len(names(neu / "train/annotations")) == 24
    assert names(sample / "SD-saliency-900/Ground truth")[:5] == [
        "In_1.png",
        "In_2.png",
        "In_3.png",
        "In_4.png",
        "Pa_1.png",
    ]
    assert names(sample / "SD-saliency-900/Source Images")[-1] == "Sc_4.bmp"
    assert names(sample / "X-SDD/datas") == [
        "iron sheet ash",
        "oxide scale of plate system",
        "red iron",
        "surface scratch",
    ]
    inspection = sample / "inspection"
    assert len(names(inspection / "train/good")) == 8
    assert names(inspection / "test/good") == ["004.png", "009.png"]
    assert names(inspection / "test/scratches") == ["000.png", "001.png"]
    assert names(inspection / "ground_truth/scratches") == ["000_mask.png", "001_mask.png"]
    assert not (inspection / "ground_truth/good").exists()


@pytest.mark.parametrize(
    ("path", "format_name", "mode", "side"),
    [
        ("NEU-DET/train/images/patches/patches_1.jpg", "JPEG", "RGB", 200),
        ("SD-saliency-900/Source Images/Pa_1.bmp", "BMP", "L", 200),
        ("SD-saliency-900/Ground truth/Pa_1.png", "PNG", "L", 200),
        ("X-SDD/datas/red iron/1.jpg", "JPEG", "RGB", 128),
        ("inspection/train/good/000.png", "PNG", "L", 256),
        ("inspection/ground_truth/patches/000_mask.png", "PNG", "L", 256),
    ],
)
def test_encodings(sample: Path, path: str, format_name: str, mode: str, side: int) -> None:
    with Image.open(sample / path) as image:
        assert (image.format, image.mode, image.size) == (format_name, mode, (side, side))
        pixels = np.asarray(image)
    if mode == "RGB":
        assert (pixels[..., 0] == pixels[..., 1]).all()
        assert (pixels[..., 0] == pixels[..., 2]).all()
    if "mask" in path or "Ground" in path:
        assert np.unique(pixels).tolist() == [0, 255]


def test_two_thirds_of_sd_saliency_900_repeat_neu_det(sample: Path) -> None:
    for label, prefix in (("inclusion", "In"), ("patches", "Pa"), ("scratches", "Sc")):
        for number, repeated in ((1, True), (2, True), (3, False), (4, True)):
            with Image.open(sample / f"NEU-DET/train/images/{label}/{label}_{number}.jpg") as image:
                jpeg = np.asarray(image.convert("L")).astype(int)
            with Image.open(sample / f"SD-saliency-900/Source Images/{prefix}_{number}.bmp") as image:
                bitmap = np.asarray(image).astype(int)
            difference = np.abs(jpeg - bitmap).mean()
            assert (jpeg != bitmap).any()
            assert difference < 3.0 if repeated else difference > 5.0


def test_boxes_cover_the_mask_and_touch_it(sample: Path) -> None:
    root = ElementTree.parse(sample / "NEU-DET/train/annotations/patches_2.xml").getroot()
    assert root.findtext("filename") == "patches_2.jpg"
    assert [root.findtext(f"size/{tag}") for tag in ("width", "height", "depth")] == ["200", "200", "1"]
    assert {item.findtext("name") for item in root.iter("object")} == {"patches"}
    _, mask = neu_det_photograph("patches", 3, 2)
    covered = np.zeros_like(mask)
    for box in root.iter("bndbox"):
        xmin, ymin, xmax, ymax = (int(box.findtext(tag) or 0) for tag in ("xmin", "ymin", "xmax", "ymax"))
        assert 1 <= xmin <= xmax <= 200
        assert 1 <= ymin <= ymax <= 200
        inside = mask[ymin - 1 : ymax, xmin - 1 : xmax]
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
        covered[ymin - 1 : ymax, xmin - 1 : xmax] = True
    assert covered[mask].all()


def test_bounding_boxes_count_from_one_and_join_near_islands(tmp_path: Path) -> None:
    mask = np.zeros((100, 120), bool)
    mask[0:10, 0:5] = True
    mask[14:20, 0:8] = True  # four rows away: the same box
    mask[50:60, 100:120] = True
    assert bounding_boxes(mask) == [(1, 1, 8, 20), (101, 51, 120, 60)]
    write_voc(tmp_path / "a.xml", "a.jpg", "patches", mask)
    assert "<xmin>101</xmin>" in (tmp_path / "a.xml").read_text()
    assert "<width>120</width>" in (tmp_path / "a.xml").read_text()


def test_bytes_depend_on_neither_workers_nor_the_other_images(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_WORKERS", "1")
    write_sample_datasets(tmp_path / "fewer", SampleCounts(2, 1, 1, 6, 1), seed=3)
    before, fewer = digests(sample), digests(tmp_path / "fewer")
    assert len(fewer) == 12 + 12 + 6 + 4 + 6 + 12
    assert fewer == {path: before[path] for path in fewer}
    write_sample_datasets(tmp_path / "other", SampleCounts(2, 1, 1, 6, 1), seed=4)
    other = digests(tmp_path / "other")
    images = [path for path in other if not path.endswith(".xml")]
    assert not [path for path in images if other[path] == fewer[path]]


def test_somebody_elses_image_is_not_deleted_without_a_word(tmp_path: Path) -> None:
    root, few = tmp_path / "sample", SampleCounts(1, 1, 1, 5, 1)
    write_sample_datasets(root, SampleCounts(2, 1, 1, 5, 1), seed=0)
    mine = root / "inspection/train/good/mine.png"
    mine.write_bytes(b"photograph")
    message = r"holds 1 file.s. that were not drawn, such as .*mine\.png\. They would be deleted"
    with pytest.raises(UserError, match=message):
        write_sample_datasets(root, few, seed=0)
    assert mine.read_bytes() == b"photograph"
    mine.unlink()
    write_sample_datasets(root, few, seed=0)  # fewer images: the old ones were drawn, so they may go
    assert not (root / "NEU-DET/train/images/crazing/crazing_2.jpg").exists()


def test_a_failed_write_leaves_the_old_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "sample"
    root.mkdir()
    (root / "old.txt").write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(procedural_datasets, "write_x_sdd", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sample_datasets(root, SampleCounts(1, 1, 1, 5, 1), seed=0)
    assert names(root) == ["old.txt"]
    assert names(tmp_path) == ["sample"]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 1, 1, 5, 1), "neu_det is 0: at least 1"),
        ((1, 1, 1, 4, 1), "normal is 4: at least 5"),
        ((1, 1, 1, 5, -2), "defective is -2: at least 1"),
    ],
)
def test_counts_that_leave_a_split_empty_are_refused(counts: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SampleCounts(*counts)
