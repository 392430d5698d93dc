"""Each adapter reads its dataset's published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.ingest.adapters import Box, RawSample, RunLengths, coco, read_dataset, recognise
from metaldefect.ingest.adapters import files as adapter_files
from metaldefect.ingest.adapters.files import draw_runs, natural_key
from metaldefect.ingest.examine import DatasetSpec, examine_dataset

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
    samples, files = read_dataset("sd_saliency_900", tmp_path)
    assert [(s.source_label, s.mask) for s in samples] == [("inclusion", mask), ("scratches", None)]
    assert files.rejected == []


@pytest.mark.parametrize(
    "mask", ["Ground truth/IN_3.PNG", "ground Truth/In_3.bmp", "Ground truth/In_3_mask.png"]
)
def test_sd_saliency_masks_are_found_by_the_rule_of_all_layouts(tmp_path, texture, save, mask):
    save(tmp_path / "Source Images/In_3.bmp", texture(2))
    drawn = save(tmp_path / mask, texture(3))
    orphan = save(Path(drawn).with_name("Pa_9.png"), texture(4))
    samples, files = read_dataset("sd_saliency_900", tmp_path)
    assert [s.mask for s in samples] == [drawn]
    assert [(r.path.rpartition("/")[2], r.reason) for r in files.rejected] == [
        (orphan.name, "mask without its image")
    ]


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


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.jpg", "a.bmp"),
        ("a.jpg", "A.PNG"),
        ("a.JPG", "a.png"),
        ("a.jpeg", "a_mask.tif"),
        ("a.jpg", "a_mask.jpg"),
    ],
)
def test_magnetic_tile_masks_are_found_by_the_rule_of_all_layouts(tmp_path, texture, save, image, mask):
    save(tmp_path / "MT_Crack/Imgs" / image, texture(1), format="JPEG")
    save(tmp_path / "MT_Crack/Imgs" / mask, texture(2))
    samples, files = read_dataset("magnetic_tile", tmp_path)
    assert [(s.path.name, s.mask and s.mask.name) for s in samples] == [(image, mask)]
    assert files.rejected == []


def test_a_magnetic_tile_class_without_its_folder_of_images_is_refused_by_name(tmp_path, texture, save):
    save(tmp_path / "MT_Free/Imgs/1.jpg", texture(1))
    save(tmp_path / "MT_crack/1.png", texture(2))
    samples, files = read_dataset("magnetic_tile", tmp_path)
    assert [s.source_label for s in samples] == ["Free"]
    assert [(r.path, r.reason.partition(":")[0]) for r in files.rejected] == [
        ("magnetic_tile/MT_crack", "no folder Imgs in it")
    ]
    assert files.notes == []


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
    write_text(tmp_path / "Class3/Train/Label/Labels.txt", "1\n1\t0\t0001.PNG\t0\t0\n")
    samples, files = read_dataset("dagm_2007", tmp_path)
    assert files.rejected == []
    assert [(s.source_label, s.source_split, s.is_normal) for s in samples] == [
        ("Class3 good", "train", True),
        ("Class3 defect", "test", False),
    ]


LISTED = "1\n1\t0\t0001.PNG\t0\t0\n2\t1\t0002.PNG\t0\t0002_label.PNG\n"


@pytest.mark.parametrize(
    ("table", "label", "refused"),
    [
        (LISTED, "0002_label.PNG", {}),
        (None, "0002_label.PNG", {}),
        # Nothing says that the images without a label file are good
        (None, None, {"0001.PNG": "its class is unknown", "0002.PNG": "its class is unknown"}),
        ("1\n", None, {"0001.PNG": "its class is unknown", "0002.PNG": "its class is unknown"}),
        (LISTED[:20], "0002_label.PNG", {"Label/Labels.txt": "line 3"}),
        ("1\n2\t1\t0002.PNG\t0\t0\n", "0002_label.PNG", {"0001.PNG": "its class is unknown"}),
        (LISTED, None, {"0002.PNG": "Labels.txt says that it has a defect, but it has no label file"}),
        (
            LISTED.replace("\t1\t", "\t0\t"),
            "0002_label.PNG",
            {"0002.PNG": "Labels.txt says that it has no defect, but it has a label file"},
        ),
        (LISTED + "3\t1\t0001.PNG\t0\t0\n", "0002_label.PNG", {"0001.PNG": "its class is unknown"}),
        (LISTED + "3\t1\t0009.PNG\t0\t0\n", "0002_label.PNG", {"Label/Labels.txt": "line 4"}),
        (LISTED + "3\tyes\t0001.PNG\n", "0002_label.PNG", {"Label/Labels.txt": "line 4"}),
    ],
)
def test_a_dagm_image_is_good_only_if_its_labels_say_so(tmp_path, texture, save, table, label, refused):
    for number in (1, 2):
        save(tmp_path / f"Class3/Train/{number:04d}.PNG", texture(number))
    (tmp_path / "Class3/Train/Label").mkdir()
    if label is not None:
        save(tmp_path / "Class3/Train/Label" / label, texture(3))
    if table is not None:
        write_text(tmp_path / "Class3/Train/Label/Labels.txt", table)
    samples, files = read_dataset("dagm_2007", tmp_path)
    reasons = {
        r.path.removeprefix("dagm_2007/Class3/Train/"): r.reason.partition(":")[0] for r in files.rejected
    }
    assert reasons == refused
    expected = {"0001.PNG": True, "0002.PNG": False}
    assert {s.path.name: s.is_normal for s in samples} == {
        name: good for name, good in expected.items() if name not in refused
    }


def test_no_dagm_image_is_good_whose_label_file_fits_another_one_too(tmp_path, texture, save):
    for name in ("1.png", "1.bmp", "2.png"):
        save(tmp_path / "Class3/Train" / name, texture(1))
    save(tmp_path / "Class3/Train/Label/1_label.png", texture(2))
    samples, files = read_dataset("dagm_2007", tmp_path)
    assert [(s.path.name, s.is_normal) for s in samples] == [("2.png", True)]
    assert {r.path.rpartition("/")[2] for r in files.rejected} == {"1.png", "1.bmp"}


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


def test_a_class_whose_name_begins_with_kos_is_no_kolektor_sdd(tmp_path, texture, save):
    save(tmp_path / "good/a.png", texture(1))
    save(tmp_path / "kosmetisch/b.png", texture(2))
    assert recognise(tmp_path) == "folder"


def test_a_coco_file_that_is_too_large_is_refused_by_its_size(tmp_path, monkeypatch):
    (tmp_path / "export.json").write_text('{"images": [], "annotations": [], "categories": []}')
    for module in (coco, adapter_files):
        monkeypatch.setattr(module, "MAX_TEXT_BYTES", 40)
    assert recognise(tmp_path) == "coco"
    _, found = read_dataset("coco", tmp_path)
    assert [(r.path, r.reason) for r in found.rejected] == [
        ("coco/export.json", "unreadable COCO file: text file larger than 40 bytes")
    ]


def test_orphan_labels_of_kolektor_sdd_are_refused_and_case_and_suffix_ignored(tmp_path, texture, save):
    save(tmp_path / "kos01/Part1.jpg", texture(1))
    save(tmp_path / "kos01/part1_LABEL.png", np.eye(64, dtype=np.uint8) * 255)
    save(tmp_path / "kos01/Part7_label.bmp", np.zeros((64, 64), np.uint8))
    samples, files = read_dataset("kolektor_sdd", tmp_path)
    assert [(s.source_label, s.mask and s.mask.name) for s in samples] == [("defect", "part1_LABEL.png")]
    assert [(r.path, r.reason) for r in files.rejected] == [
        ("kolektor_sdd/kos01/Part7_label.bmp", "mask without its image")
    ]


@pytest.mark.parametrize(
    ("adapter", "image", "annotation"),
    [
        ("neu_det", "train/images/crazing/crazing_1.jpg", "train/annotations/crazing_2.xml"),
        ("gc10_det", "1/img_1.jpg", "lable/img_2.xml"),
    ],
)
def test_annotations_without_their_image_are_refused(tmp_path, texture, save, adapter, image, annotation):
    save(tmp_path / image, texture(1))
    write_text(tmp_path / annotation, VOC.format(name="any.jpg", label="1_chongkong"))
    write_text((tmp_path / annotation).with_name("._img_1.xml"), "resource fork")
    samples, files = read_dataset(adapter, tmp_path)
    assert [s.boxes for s in samples] == [()]
    assert [(r.path, r.reason) for r in files.rejected] == [
        (f"{adapter}/{annotation}", "annotation without its image")
    ]


@pytest.mark.parametrize(
    ("width", "height", "orientation", "reason"),
    [
        (64, 48, 1, None),
        (0, 0, 1, None),  # some tools do not fill it in
        (128, 96, 1, "annotated as 128x96 pixels, but the image has 64x48"),
        (48, 64, 6, None),
        (
            64,
            48,
            6,
            "annotated as 64x48 pixels, but the image has 48x64: the annotations fit the stored pixels only,"
            " which EXIF turns; save the image upright",
        ),
    ],
)
def test_boxes_must_be_drawn_on_the_image_s_own_size(tmp_path, width, height, orientation, reason):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "IMAGES/crazing_1.jpg"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    box = VOC.format(name="crazing_1.jpg", label="crazing").replace("60", "40").replace("50", "40")
    write_text(tmp_path / "crazing_1.xml", box.replace("<object>", f"{size}<object>"))
    found, files = examine_dataset(DatasetSpec("neu_det", tmp_path), ["crazing"], 32)
    assert [len(item.raw.boxes) for item in found] == ([1] if reason is None else [])
    assert [r.reason for r in files.rejected] == ([] if reason is None else [reason])


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


NEWER = "ImageId,ClassId,EncodedPixels\na.jpg,3,1 2 65 1\nb.jpg,1,5 1\nb.jpg,4,9 1\n"
PIXELS = {"a.jpg_3": "1 2 65 1", "b.jpg_1": "5 1", "b.jpg_4": "9 1"}
OLDER = "ImageId_ClassId,EncodedPixels\n" + "".join(
    f"{row},{PIXELS.get(row, '')}\n" for row in (f"{name}.jpg_{k}" for name in "abc" for k in range(1, 5))
)


@pytest.mark.parametrize("table", [NEWER, OLDER])
def test_severstal_in_both_table_layouts(tmp_path, texture, save, table):
    for name in "abc":
        save(tmp_path / f"train_images/{name}.jpg", texture(1))
    save(tmp_path / "test_images/d.jpg", texture(1))
    write_text(tmp_path / "train.csv", table)
    samples, files = read_dataset("severstal", tmp_path)
    assert [s.source_label for s in samples] == ["3", "1+4", "good"]
    assert samples[0].mask == RunLengths(((1, 2), (65, 1)))
    assert samples[2].is_normal
    assert files.rejected == []
    assert [(n.path, n.reason) for n in files.notes] == [
        ("severstal/test_images", "images without labels: left out")
    ]


@pytest.mark.parametrize(
    ("table", "read", "reasons"),
    [
        (NEWER.splitlines(keepends=True)[0], [], ["no row in train.csv"] * 3),  # cut after its header
        (NEWER.replace("a.jpg", "x.jpg").replace("b.jpg", "y.jpg"), [], ["no row in train.csv"] * 3),
        (OLDER.splitlines(keepends=True)[0], [], ["no row in train.csv"] * 3),
        # Cut at the end of a line: image c has lost one row, two rows, all rows
        *(
            (
                "".join(OLDER.splitlines(keepends=True)[:-lost]),
                ["a.jpg", "b.jpg"],
                [f"no row in train.csv of class {classes}"],
            )
            for lost, classes in ((1, "4"), (2, "3, 4"), (4, "1, 2, 3, 4"))
        ),
        (NEWER + "b.jpg,1,7 1\n", ["a.jpg", "c.jpg"], ["its row in train.csv is broken"]),
    ],
)
def test_no_severstal_image_is_good_because_the_table_does_not_name_it(
    tmp_path, texture, save, table, read, reasons
):
    for name in "abc":
        save(tmp_path / f"train_images/{name}.jpg", texture(1))
    write_text(tmp_path / "train.csv", table)
    samples, files = read_dataset("severstal", tmp_path)
    assert [s.path.name for s in samples] == read
    found = [r.reason for r in files.rejected if r.path.startswith("severstal/train_images/")]
    assert len(found) == len(reasons)
    assert all(text.startswith(reason) for text, reason in zip(found, reasons, strict=True))


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


@pytest.mark.parametrize(
    ("adapter", "read", "lost", "notes"),
    [
        ("mvtec_ad", ["train/good/1.png"], ["val/good/2.png", "val/dent/3.png"], {"val": 2}),
        ("mvtec_ad", ["train/good/1.png"], ["Test/dent/2.png", "3.png"], {".": 1, "Test": 1}),
        ("magnetic_tile", ["MT_Free/Imgs/1.jpg"], ["MT_Free/2.jpg", "more/3.tif"], {"MT_Free": 1, "more": 1}),
        (
            "dagm_2007",
            ["Class1/Train/1.png"],
            ["class2/Train/2.png", "Class1/3.png"],
            {"Class1": 1, "class2": 1},
        ),
        ("visa", ["Data/Images/Normal/1.JPG"], ["Data/Images/2.png"], {"Data": 1}),
        ("btad", ["train/ok/1.bmp"], ["train/2.bmp", "valid/ok/3.bmp"], {"train": 1, "valid": 1}),
        ("casting", ["ok_front/1.jpeg"], ["others/2.jpeg", "3.webp"], {".": 1, "others": 1}),
        ("sd_saliency_900", ["Source Images/In_1.bmp"], ["GT/In_1.png"], {"GT": 1}),
        ("x_sdd", ["datas/red iron/1.jpg"], ["new/red iron/2.jpg"], {"new": 1}),
        ("severstal", ["train_images/a.jpg"], ["images/b.jpg"], {"images": 1}),
        ("gc10_det", ["1/1.jpg"], ["2.jpg"], {".": 1}),
        ("kolektor_sdd", ["kos01/Part1.jpg"], ["Kos02/Part1.jpg"], {"Kos02": 1}),
        ("kolektor_sdd2", ["train/1.png"], ["val/2.png"], {"val": 1}),
    ],
)
def test_images_without_a_place_in_the_layout_are_counted_by_folder(
    tmp_path, texture, save, adapter, read, lost, notes
):
    for name in (*read, *lost, "hidden/._4.png", ".trash/5.png"):
        save(tmp_path / "made.png", texture(1))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made.png").rename(tmp_path / name)
    empty = np.zeros((64, 64), np.uint8)
    if adapter == "dagm_2007":
        write_text(tmp_path / "Class1/Train/Label/Labels.txt", "1\n1\t0\t1.png\t0\t0\n")
    if adapter.startswith("kolektor"):
        ending = "_label.bmp" if adapter == "kolektor_sdd" else "_GT.png"
        save((tmp_path / read[0]).with_name(Path(read[0]).stem + ending), empty)
    write_text(tmp_path / "train.csv", "ImageId,ClassId,EncodedPixels\na.jpg,1,1 2\n")
    samples, files = read_dataset(adapter, tmp_path)
    assert [files.relative(s.path) for s in samples] == read
    assert files.rejected == []
    assert {n.path.removeprefix(f"{adapter}/"): int(n.reason.split()[1]) for n in files.notes} == notes
    assert all("left out" in n.reason for n in files.notes)
