"""Written datasets, read by other people's tools: pycocotools, torchvision's VOC parser, a YOLO reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from defusedxml import ElementTree
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from metaldefect.commands.insert import insert
from metaldefect.commands.insert_settings import InsertSettings
from metaldefect.images import write_png
from metaldefect.ingest.adapters import read_dataset
from metaldefect.procedural.images import generate_normal_image
from metaldefect.synthesis.formats.coco import write_coco
from metaldefect.synthesis.formats.layouts import LAYOUTS
from metaldefect.synthesis.formats.records import ImageRecord, mask_of, record_defect, runs_of
from metaldefect.synthesis.formats.voc import write_voc
from metaldefect.synthesis.formats.yolo import write_yolo_boxes, write_yolo_polygons

HEIGHT, WIDTH = 60, 90


def masks() -> dict[str, np.ndarray]:
    """A ring with a hole, a defect in two parts, and one in the image's corner."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(rows - 30, columns - 40)
    ring = (distance < 14) & (distance > 6)
    parts = np.zeros((HEIGHT, WIDTH), bool)
    parts[5:9, 60:80] = True
    parts[12:20, 70:74] = True
    corner = np.zeros((HEIGHT, WIDTH), bool)
    corner[:10, :4] = True
    return {"ring": ring, "parts": parts, "corner": corner}


@pytest.fixture
def images() -> list[ImageRecord]:
    shapes = masks()
    defects = (record_defect("stain", shapes["ring"]), record_defect("dent", shapes["parts"]))
    return [
        ImageRecord(
            image="images/a.png", mask="masks/a.png", width=WIDTH, height=HEIGHT, channels=1,
            split="train", defects=defects,
        ),
        ImageRecord(
            image="images/b.png", mask="masks/b.png", width=WIDTH, height=HEIGHT, channels=3,
            split="val", defects=(record_defect("dent", shapes["corner"]),),
        ),
    ]  # fmt: skip


def test_runs_and_masks_are_one_another() -> None:
    shapes = [*masks().values(), np.ones((4, 5), bool), np.zeros((4, 5), bool)]
    for mask in shapes:
        assert np.array_equal(mask_of(runs_of(mask), *mask.shape), mask)
    assert runs_of(np.array([[False, True], [True, True]])) == [1, 3]
    assert runs_of(np.array([[True, False], [True, True]])) == [0, 2, 1, 1]


def test_pycocotools_sees_every_pixel_of_every_mask(tmp_path: Path, images: list[ImageRecord]) -> None:
    write_coco(tmp_path, images)
    coco = COCO(str(tmp_path / "annotations/instances.json"))
    assert {category["name"]: category["id"] for category in coco.loadCats(coco.getCatIds())} == {
        "dent": 1,
        "stain": 2,
    }
    assert [entry["file_name"] for entry in coco.loadImgs(coco.getImgIds())] == ["a.png", "b.png"]
    found = coco.loadAnns(coco.getAnnIds())
    for entry, mask in zip(found, masks().values(), strict=True):
        assert np.array_equal(coco.annToMask(entry).astype(bool), mask)
        assert entry["area"] == mask.sum()
    assert found[1]["bbox"] == [60, 5, 20, 15]
    assert [coco.loadCats(entry["category_id"])[0]["name"] for entry in found] == ["stain", "dent", "dent"]


def read_yolo(root: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """Labels by image as Ultralytics finds them: `images` in the path replaced by `labels`."""
    data = yaml.safe_load((root / "data.yaml").read_text())
    found = {}
    for split in ("train", "val"):
        for line in (root / data[split]).read_text().splitlines():
            label = Path(str(root / line).replace("/images/", "/labels/")).with_suffix(".txt")
            rows = [row.split() for row in label.read_text().splitlines()]
            found[f"{split}:{Path(line).name}"] = [
                (data["names"][int(row[0])], [float(v) for v in row[1:]]) for row in rows
            ]
    return found


def test_yolo_boxes_are_centres_and_sizes(tmp_path: Path, images: list[ImageRecord]) -> None:
    write_yolo_boxes(tmp_path, images)
    found = read_yolo(tmp_path)
    assert list(found) == ["train:a.png", "val:b.png"]
    assert [name for name, _ in found["train:a.png"]] == ["stain", "dent"]
    assert found["train:a.png"][1][1] == pytest.approx([70 / 90, 12.5 / 60, 20 / 90, 15 / 60], abs=1e-5)
    assert found["val:b.png"] == [("dent", pytest.approx([2 / 90, 5 / 60, 4 / 90, 10 / 60], abs=1e-5))]


def test_yolo_polygons_cover_their_masks(tmp_path: Path, images: list[ImageRecord]) -> None:
    write_yolo_polygons(tmp_path, images)
    found = read_yolo(tmp_path)
    assert [name for name, _ in found["train:a.png"]] == ["stain", "dent", "dent"]
    shapes = masks()
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    filled = np.hypot(rows - 30, columns - 40) < 14  # a polygon has no hole
    truths = [filled, shapes["parts"] & (rows < 10), shapes["parts"] & (rows > 10)]
    for (_, shares), truth in zip(found["train:a.png"], truths, strict=True):
        points = np.array(shares).reshape(-1, 2) * (8 * WIDTH, 8 * HEIGHT)
        canvas = Image.new("1", (8 * WIDTH, 8 * HEIGHT))
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in points], fill=1)
        drawn, large = np.asarray(canvas), np.kron(truth, np.ones((8, 8), bool))
        assert (drawn & large).sum() / (drawn | large).sum() > 0.9
        assert 3 <= len(points) <= 40


@pytest.mark.parametrize(("format_name", "tolerance"), [("yolo", 0.01), ("yolo-polygons", 1.0)])
def test_yolo_labels_of_a_run_enclose_the_masks_that_it_wrote(
    format_name: str, tolerance: float, tmp_path: Path
) -> None:
    for number in range(3):
        write_png(tmp_path / f"photos/day{number}/cam.png", generate_normal_image(number, 150)[:120])
    out = tmp_path / "out"
    done = insert(
        InsertSettings(
            images=tmp_path / "photos", label=("scratch", "patches"), method="procedural", output=out,
            format=format_name, per_image=2,
        )
    )  # fmt: skip
    assert set(yaml.safe_load((out / "data.yaml").read_text())) == {"train", "val", "names"}
    found = read_yolo(out)
    assert len(found) == done.images > 3
    assert {key.split(":")[0] for key in found} == {"train", "val"}
    if format_name == "yolo":
        assert sum(map(len, found.values())) == done.defects
    for key, rows in found.items():
        name = key.split(":")[1]
        assert {label for label, _ in rows} == {name.split("_")[0]}
        ends = np.concatenate([np.reshape(ends_of(shares), (-1, 2)) for _, shares in rows]) * (150, 120)
        marked = np.argwhere(np.asarray(Image.open(out / "masks" / name)) > 0)[:, ::-1]
        assert ends.min(axis=0) == pytest.approx(marked.min(axis=0), abs=tolerance)
        assert ends.max(axis=0) == pytest.approx(marked.max(axis=0) + 1, abs=tolerance)


def ends_of(shares: list[float]) -> list[float]:
    """The corners of a box from its centre and size; a polygon's points as they are."""
    if len(shares) != 4:
        return shares
    x, y, width, height = shares
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def test_voc_is_read_by_torchvision(tmp_path: Path, images: list[ImageRecord]) -> None:
    moved = [image.model_copy(update={"image": f"JPEGImages/{Path(image.image).name}"}) for image in images]
    write_voc(tmp_path, moved)
    tree = ElementTree.parse(tmp_path / "Annotations/a.xml").getroot()
    found = VOCDetection.parse_voc_xml(tree)["annotation"]
    assert found["size"] == {"width": "90", "height": "60", "depth": "1"}
    assert found["filename"] == "a.png"
    other = ElementTree.parse(tmp_path / "Annotations/b.xml").getroot()
    assert other.findtext("size/depth") == "3"
    assert [item["name"] for item in found["object"]] == ["stain", "dent"]
    assert found["object"][1]["bndbox"] == {"xmin": "61", "ymin": "6", "xmax": "80", "ymax": "20"}
    indexed = Image.open(tmp_path / "SegmentationClass/a.png")
    assert indexed.mode == "P"
    expected = np.where(masks()["ring"], 2, np.where(masks()["parts"], 1, 0))
    assert np.array_equal(np.asarray(indexed), expected)
    # The colours of the development kit: aeroplane is dark red, bicycle dark green
    assert indexed.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert (tmp_path / "ImageSets/Main/train.txt").read_text() == "a\n"


def test_mvtec_paths_are_the_published_ones(tmp_path: Path) -> None:
    layout = LAYOUTS["mvtec"]
    image, mask = layout.image("deep dent", "007", ".png"), layout.mask("deep dent", "007")
    assert (image, mask) == ("test/deep_dent/007.png", "ground_truth/deep_dent/007_mask.png")
    picture = Image.fromarray(np.full((32, 32), 90, np.uint8))
    for path in (image, mask, "train/good/000.png", "test/good/001.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / path)
    samples, files = read_dataset("mvtec_ad", tmp_path)
    assert files.rejected == []
    assert {(sample.source_label, sample.source_split, sample.mask is not None) for sample in samples} == {
        ("good", "train", False), ("good", "test", False), ("deep_dent", "test", True),
    }  # fmt: skip
