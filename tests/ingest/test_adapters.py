"""Each adapter reads its dataset's published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metaldefect.errors import UserError
from metaldefect.ingest.adapters import Box, RawSample, RunLengths, read_dataset, recognise
from metaldefect.ingest.adapters.files import draw_runs, natural_key

VOC = """<annotation><filename>{name}</filename>
<object><name>{label}</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object>
</annotation>"""


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rows(samples: list[RawSample], root: Path) -> list[tuple[str, str, str | None]]:
    return [(s.path.relative_to(root).as_posix(), s.source_label, s.source_split) for s in samples]


def test_neu_det_kaggle_layout_finds_a_misplaced_annotation(tmp_path, texture, save):
    save(tmp_path / "train/images/crazing/crazing_2.jpg", texture(1))
    save(tmp_path / "train/images/crazing/crazing_10.jpg", texture(2))
    save(tmp_path / "validation/images/rolled-in_scale/rolled-in_scale_241.jpg", texture(3))
    # crazing_10 is a training image whose annotation lies with the validation ones, without a suffix in
    # <filename>, and its box carries another class: all three happen in the release
    write_text(
        tmp_path / "validation/annotations/crazing_10.xml", VOC.format(name="crazing_10", label="patches")
    )
    samples, files = read_dataset("neu_det", tmp_path)
    assert rows(samples, tmp_path) == [
        ("train/images/crazing/crazing_2.jpg", "crazing", "train"),
        ("train/images/crazing/crazing_10.jpg", "crazing", "train"),
        ("validation/images/rolled-in_scale/rolled-in_scale_241.jpg", "rolled-in_scale", "validation"),
    ]
    assert [s.boxes for s in samples] == [(), (Box("patches", 2, 3, 50, 60),), ()]
    assert files.rejected == []


@pytest.mark.parametrize(
    ("name", "label", "split"),
    [
        ("IMAGES/rolled-in_scale_7.jpg", "rolled-in_scale", "train"),
        ("IMAGES/scratches_241.jpg", "scratches", "validation"),
        # in the folder of another split than the published one
        ("Validation_Images/crazing_240.jpg", "crazing", "train"),
        ("Validation_Images/crazing_300.jpg", "crazing", "validation"),
        ("images/patches_1.jpg", "patches", "train"),
        ("PS_12.bmp", "pitted_surface", "train"),
        ("PS_301.bmp", "pitted_surface", None),
    ],
)
def test_neu_det_flat_layouts(tmp_path, texture, save, name, label, split):
    save(tmp_path / name, texture(1))
    write_text(
        tmp_path / "ANNOTATIONS" / f"{Path(name).stem}.xml", VOC.format(name=Path(name).name, label=label)
    )
    samples, _ = read_dataset("neu_det", tmp_path)
    assert rows(samples, tmp_path) == [(name, label, split)]
    assert len(samples[0].boxes) == 1


def test_sd_saliency_900(tmp_path, texture, save):
    save(tmp_path / "Source Images/Sc_3.bmp", texture(1))
    save(tmp_path / "Source Images/In_3.bmp", texture(2))
    mask = save(tmp_path / "Ground truth/In_3.png", texture(3))
    samples, _ = read_dataset("sd_saliency_900", tmp_path)
    assert [(s.source_label, s.mask) for s in samples] == [("inclusion", mask), ("scratches", None)]


def test_x_sdd_with_and_without_its_outer_folder(tmp_path, texture, save):
    save(tmp_path / "a/datas/surface scratch/7001.jpg", texture(1))
    save(tmp_path / "b/surface scratch/7001.jpg", texture(1))
    for name in "ab":
        samples, _ = read_dataset("x_sdd", tmp_path / name)
        assert [s.source_label for s in samples] == ["surface scratch"]


def test_magnetic_tile(tmp_path, texture, save):
    for kind in ("Free", "Blowhole"):
        save(tmp_path / f"MT_{kind}/Imgs/exp1_num_5.jpg", texture(1))
        save(tmp_path / f"MT_{kind}/Imgs/exp1_num_5.png", texture(2))
    save(tmp_path / "MT_Free/Imgs/exp1_num_6.png", texture(2))
    samples, files = read_dataset("magnetic_tile", tmp_path)
    assert [(s.source_label, s.is_normal, s.mask.name) for s in samples] == [
        ("Blowhole", False, "exp1_num_5.png"),
        ("Free", True, "exp1_num_5.png"),
    ]
    assert [(r.path, r.reason) for r in files.rejected] == [
        ("magnetic_tile/MT_Free/Imgs/exp1_num_6.png", "mask without its image")
    ]


def test_mvtec_ad(inspection_folder):
    samples, _ = read_dataset("mvtec_ad", inspection_folder)
    assert len(samples) == 19
    assert [s.source_split for s in samples].count("train") == 12
    defect = samples[-1]
    assert (defect.source_label, defect.is_normal, defect.mask.name) == ("pits", False, "002_mask.png")


def test_mvtec_ad_names_the_categories_of_a_folder_above(tmp_path, texture, save):
    save(tmp_path / "metal_nut/train/good/000.png", texture(1))
    with pytest.raises(UserError, match=r"train/good does not exist: choose one.*: metal_nut"):
        read_dataset("mvtec_ad", tmp_path)


def test_gc10_det(tmp_path, texture, save):
    save(tmp_path / "10/img_1.jpg", texture(1))
    save(tmp_path / "2/img_2.jpg", texture(2))
    write_text(tmp_path / "lable/img_1.xml", VOC.format(name="img_1.jpg", label="10_yaozhe"))
    samples, files = read_dataset("gc10_det", tmp_path)
    assert [(s.source_label, len(s.boxes)) for s in samples] == [("welding_line", 0), ("waist_folding", 1)]
    assert files.rejected == []


def test_dagm_2007(tmp_path, texture, save):
    save(tmp_path / "Class3/Train/0001.PNG", texture(1))
    save(tmp_path / "Class3/Test/0002.PNG", texture(2))
    save(tmp_path / "Class3/Test/Label/0002_LABEL.bmp", texture(3))
    write_text(tmp_path / "Class3/Train/Label/Labels.txt", "1\n")
    samples, files = read_dataset("dagm_2007", tmp_path)
    assert files.rejected == []
    assert [(s.source_label, s.source_split, s.is_normal) for s in samples] == [
        ("Class3 good", "train", True),
        ("Class3 defect", "test", False),
    ]


def test_no_dagm_image_is_good_where_labels_are_missing_or_fit_none(tmp_path, texture, save):
    save(tmp_path / "Class3/Train/0001.PNG", texture(1))
    save(tmp_path / "Class3/Test/0002.PNG", texture(2))
    save(tmp_path / "Class3/Test/0003.PNG", texture(3))
    save(tmp_path / "Class3/Test/Label/0002_label.PNG", texture(3))
    save(tmp_path / "Class3/Test/Label/3_label.PNG", texture(3))
    samples, files = read_dataset("dagm_2007", tmp_path)
    assert [(s.path.name, s.is_normal) for s in samples] == [("0002.PNG", False)]
    assert {r.path.removeprefix("dagm_2007/Class3/"): r.reason.partition(":")[0] for r in files.rejected} == {
        "Train/0001.PNG": "its class is unknown",
        "Test/0003.PNG": "its class is unknown",
        "Test/Label/3_label.PNG": "mask without its image",
    }


def test_kolektor_sdd(tmp_path, texture, save):
    empty, crack = np.zeros((64, 64), np.uint8), np.eye(64, dtype=np.uint8) * 255
    for name, mask in (("Part0", empty), ("Part1", crack)):
        save(tmp_path / f"kos01/{name}.jpg", texture(1))
        save(tmp_path / f"kos01/{name}_label.bmp", mask)
    save(tmp_path / "kos01/Part2.jpg", texture(1))
    samples, files = read_dataset("kolektor_sdd", tmp_path)
    assert [s.source_label for s in samples] == ["good", "defect"]
    assert [r.path for r in files.rejected] == ["kolektor_sdd/kos01/Part2.jpg"]


def test_kolektor_sdd2_without_its_stray_copies(tmp_path, texture, save):
    empty, crack = np.zeros((64, 64), np.uint8), np.eye(64, dtype=np.uint8) * 255
    for name, mask in (("train/10301", crack), ("train/10302", empty), ("test/20000", crack)):
        save(tmp_path / f"{name}.png", texture(1))
        save(tmp_path / f"{name}_GT.png", mask)
    # The published archive holds these two, which the authors' split does not name
    save(tmp_path / "train/10301 (copy).png", texture(1))
    save(tmp_path / "train/10301_GT (copy).png", crack)
    save(tmp_path / "test/20001.png", texture(2))
    samples, files = read_dataset("kolektor_sdd2", tmp_path)
    assert rows(samples, tmp_path) == [
        ("train/10301.png", "defect", "train"),
        ("train/10302.png", "good", "train"),
        ("test/20000.png", "defect", "test"),
    ]
    assert [sample.is_normal for sample in samples] == [False, True, False]
    assert len(files.notes) == 2
    assert [(r.path, r.reason.partition(",")[0]) for r in files.rejected] == [
        ("kolektor_sdd2/test/20001.png", "no mask 20001_GT.png")
    ]


def test_visa(tmp_path, texture, save):
    numbers = np.zeros((64, 64), np.uint8)
    numbers[5:9, 5:9] = 2
    save(tmp_path / "Data/Images/Normal/0000.JPG", texture(1), format="JPEG")
    save(tmp_path / "Data/Images/Anomaly/000.JPG", texture(2), format="JPEG")
    save(tmp_path / "Data/Masks/Anomaly/000.png", numbers)
    write_text(tmp_path / "image_anno.csv", "image,label,mask\n")
    samples, files = read_dataset("visa", tmp_path)
    assert [(s.source_label, s.is_normal, s.mask and s.mask.name) for s in samples] == [
        ("anomaly", False, "000.png"),
        ("good", True, None),
    ]
    assert files.rejected == []


def test_btad_with_masks_of_either_suffix(tmp_path, texture, save):
    for name in ("train/ok/0000.bmp", "test/ok/0001.bmp", "test/ko/0000.bmp", "test/ko/0002.bmp"):
        save(tmp_path / name, texture(1))
    save(tmp_path / "ground_truth/ko/0000.png", np.eye(64, dtype=np.uint8))
    save(tmp_path / "ground_truth/ko/0002.bmp", np.eye(64, dtype=np.uint8))
    samples, files = read_dataset("btad", tmp_path)
    assert [
        (*row, sample.mask and sample.mask.name)
        for row, sample in zip(rows(samples, tmp_path), samples, strict=True)
    ] == [
        ("train/ok/0000.bmp", "good", "train", None),
        ("test/ko/0000.bmp", "defect", "test", "0000.png"),
        ("test/ko/0002.bmp", "defect", "test", "0002.bmp"),
        ("test/ok/0001.bmp", "good", "test", None),
    ]
    assert files.rejected == []


def test_mpdd_has_the_layout_of_mvtec_ad(tmp_path, texture, save):
    save(tmp_path / "train/good/001.png", texture(1))
    save(tmp_path / "test/parts_mismatch/000.png", texture(2))
    save(tmp_path / "ground_truth/parts_mismatch/000_mask.png", np.eye(64, dtype=np.uint8) * 255)
    samples, files = read_dataset(recognise(tmp_path), tmp_path)
    assert [(s.source_label, s.source_split) for s in samples] == [
        ("good", "train"),
        ("parts_mismatch", "test"),
    ]
    assert files.rejected == []


def test_casting_product_in_both_editions(tmp_path, texture, save):
    save(tmp_path / "a/train/ok_front/cast_ok_0_35.jpeg", texture(1))
    save(tmp_path / "a/test/def_front/cast_def_0_7.jpeg", texture(2))
    save(tmp_path / "b/def_front/cast_def_0_0.jpeg", texture(1))
    save(tmp_path / "b/ok_front/cast_ok_0_1.jpeg", texture(2))
    found = [
        [(s.source_label, s.source_split, s.is_normal) for s in read_dataset("casting", tmp_path / name)[0]]
        for name in "ab"
    ]
    assert found == [
        [("good", "train", True), ("defect", "test", False)],
        [("defect", None, False), ("good", None, True)],
    ]


@pytest.mark.parametrize(
    "table",
    [
        "ImageId,ClassId,EncodedPixels\na.jpg,3,1 2 65 1\nb.jpg,1,5 1\nb.jpg,4,9 1\n",
        "ImageId_ClassId,EncodedPixels\na.jpg_3,1 2 65 1\na.jpg_1,\nb.jpg_1,5 1\nb.jpg_4,9 1\n",
    ],
)
def test_severstal_in_both_table_layouts(tmp_path, texture, save, table):
    for name in "abc":
        save(tmp_path / f"train_images/{name}.jpg", texture(1))
    write_text(tmp_path / "train.csv", table)
    samples, files = read_dataset("severstal", tmp_path)
    assert [s.source_label for s in samples] == ["3", "1+4", "good"]
    assert samples[0].mask == RunLengths(((1, 2), (65, 1)))
    assert samples[2].is_normal
    assert files.rejected == []


def test_severstal_names_bad_rows(tmp_path, texture, save):
    save(tmp_path / "train_images/a.jpg", texture(1))
    write_text(tmp_path / "train.csv", "ImageId,ClassId,EncodedPixels\na.jpg,3,1 2 65\nghost.jpg,1,5 1\n")
    _, files = read_dataset("severstal", tmp_path)
    assert [r.reason.split(":")[0] for r in files.rejected] == [
        "line 2",
        "names an image that is not there",
        "its row in train.csv is broken, so its defects are unknown",
    ]


def test_runs_are_column_major_and_one_based():
    mask = draw_runs(RunLengths(((1, 2), (5, 1))), (3, 2))
    # columns of three pixels: 1 2 3 | 4 5 6
    assert mask.tolist() == [[255, 0], [255, 255], [0, 0]]


def test_natural_order():
    assert sorted(["x_10", "x_9", "x_09", "a"], key=natural_key) == ["a", "x_09", "x_9", "x_10"]


def test_missing_folder_and_unknown_adapter(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist.*'x_sdd'"):
        read_dataset("x_sdd", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"unknown dataset adapter 'neu': known are btad, "):
        read_dataset("neu", tmp_path)
