"""A user's own CSV table or COCO file is read as it says, and what it does not say is never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters import RunLengths, read_dataset, recognise
from metaldefect.ingest.adapters.files import draw_runs
from metaldefect.ingest.adapters.shapes import fill_polygon, fill_runs, runs_of
from metaldefect.ingest.examine import DatasetSpec, examine_dataset
from metaldefect.ingest.inspection import build_inspection
from metaldefect.ingest.merge import InspectionSpec, MergeOptions, merge_datasets

SIZE = (48, 64)  # height and width


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [np.random.default_rng(k).integers(0, 256, SIZE).astype(np.uint8) for k in range(30)]


def draw(root: Path, name: str, image: np.ndarray) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def reasons(files) -> dict[str, str]:
    return {item.path: item.reason for item in files.rejected}


# ------------------------------------------------------------------------------------------------ CSV


def test_a_table_names_class_mask_group_and_split(tmp_path, pictures):
    for number, name in enumerate(("line1/a.png", "line1/b.png", "c.png")):
        draw(tmp_path, name, pictures[number])
    draw(tmp_path, "drawn/a.png", np.eye(*SIZE, dtype=np.uint8) * 255)
    (tmp_path / "parts.csv").write_text(
        # a spreadsheet's file: byte order mark, semicolons, Windows paths, other case, one more column
        "\ufeffPath;Label;Mask;Group;Split;Operator\r\n"
        "line1\\a.png;dent;drawn/a.png;part 7;val;Ada\r\n"
        "line1/b.png;dent;;part 7;train;\r\n"
        "\r\n"
        "c.png;Good;;;;\r\n",
        encoding="utf-8",
    )
    assert recognise(tmp_path) == "csv_table"
    samples, files = read_dataset("csv_table", tmp_path)
    assert [
        (s.path.name, s.source_label, s.mask and s.mask.name, s.scene, s.source_split, s.is_normal)
        for s in samples
    ] == [
        ("a.png", "dent", "a.png", "part 7", "validation", False),
        ("b.png", "dent", None, "part 7", "train", False),
        ("c.png", "good", None, None, None, True),
    ]
    assert (files.rejected, files.notes) == ([], [])


def test_rows_that_cannot_be_used_are_refused_with_their_line(tmp_path, pictures):
    for number, name in enumerate("abcdefg"):
        draw(tmp_path, f"{name}.png", pictures[number])
    (tmp_path.parent / "outside.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "t.csv").write_text(
        "path,label,mask,split\n"
        "a.png,dent,,\n"
        "b.png,,,\n"
        "c.png,dent,missing.png,\n"
        "d.png,dent,,third\n"
        "a.png,scratch,,\n"
        "e.png,dent\n"
        "../outside.png,dent,,\n"
        "/etc/passwd,dent,,\n"
        "gone.png,dent,,\n"
        "notes.txt,dent,,\n"
    )
    samples, files = read_dataset("csv_table", tmp_path)
    assert [s.path.name for s in samples] == ["a.png"]
    assert {(r.path.removeprefix("csv_table/"), r.reason) for r in files.rejected} == {
        ("b.png", "t.csv, line 3: no label"),
        ("c.png", "t.csv, line 4: its mask missing.png does not exist"),
        ("d.png", "t.csv, line 5: split 'third' is none of train, training, validation, valid, val, test"),
        ("a.png", "t.csv, line 6: named again, after line 2"),
        ("t.csv", "line 7: 2 cells for 4 columns"),
        ("t.csv", "line 8: '../outside.png' leads out of the dataset's folder"),
        ("t.csv", "line 9: '/etc/passwd' is no path inside the dataset's folder"),
        ("t.csv", "line 10: its image gone.png does not exist"),
        ("t.csv", "line 11: its image notes.txt is no image"),
    }
    # e.png stands in a broken row, f.png and g.png in none: nothing says that they are good
    assert [note.reason for note in files.notes] == [
        "names none of 3 further images, such as e.png: they are left out"
    ]


@pytest.mark.parametrize(
    "tables", [{}, {"a.csv": "image,class\n"}, {"a.csv": "path,label\n", "b.csv": "label,path\n"}]
)
def test_a_folder_needs_one_table(tmp_path, pictures, tables):
    draw(tmp_path, "a.png", pictures[0])
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="must hold one CSV file whose first line names the columns path and"):
        read_dataset("csv_table", tmp_path)


def test_groups_of_a_table_never_lie_in_two_splits(tmp_path, pictures):
    """Two photographs of one part look nothing alike here: only the column says that they belong together."""
    lines = ["path,label,group"]
    for number, picture in enumerate(pictures):
        draw(tmp_path / "raw", f"{number}.png", picture)
        lines.append(f"{number}.png,{'good' if number < 15 else 'dent'},part{number // 3}")
    (tmp_path / "raw/table.csv").write_text("\n".join(lines))
    result = merge_datasets(
        [DatasetSpec("csv_table", tmp_path / "raw")],
        InspectionSpec("csv_table", tmp_path / "raw"),
        tmp_path / "merged",
        tmp_path / "reports",
        MergeOptions(["dent"], 32, 0.2, 0.2, seed=0),
    )
    assert result.table["scene"].nunique() == 5
    assert result.summary["scenes_across_splits"] == 0
    assert result.table.groupby("scene").size().tolist() == [3] * 5
    images = (tmp_path / "merged/inspection").glob("*/good/*.png")
    splits: dict[int, set[str]] = {}
    for path in images:
        splits.setdefault(int(path.stem) // 3, set()).add(path.parts[-3])
    assert len(splits) == 5
    assert all(len(found) == 1 for found in splits.values())


# ----------------------------------------------------------------------------------------------- COCO


def coco(images: list[tuple[int, str]], annotations: list[dict], size=SIZE) -> str:
    return json.dumps(
        {
            "info": {},
            "categories": [
                {"id": 1, "name": "dent"},
                {"id": 2, "name": "scratch"},
                {"id": 9, "name": "good"},
            ],
            "images": [
                {"id": number, "file_name": name, "width": size[1], "height": size[0]}
                for number, name in images
            ],
            "annotations": annotations,
        }
    )


SQUARE = [10.0, 4.0, 20.0, 4.0, 20.0, 12.0, 10.0, 12.0]  # 10 x 8 pixels


def test_coco_reads_polygons_run_lengths_and_boxes(tmp_path, pictures):
    names = ["a.png", "b.png", "c.png", "d.png", "good/e.png", "f.png", "g.png"]
    for number, name in enumerate(names):
        draw(tmp_path, f"images/{name}", pictures[number])
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[5:9, 30:40] = 1
    compressed = coco_masks.encode(mask)
    plain = [30 * 48 + 5, *([4, 44] * 9), 4, 48 * 64 - 30 * 48 - 5 - 9 * 48 - 4]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_text(
        coco(
            list(enumerate(names)),
            [
                {"image_id": 0, "category_id": 1, "bbox": [10, 4, 10, 8], "segmentation": [SQUARE]},
                {"image_id": 0, "category_id": 2, "segmentation": {"size": SIZE, "counts": plain}},
                {
                    "image_id": 1,
                    "category_id": 2,
                    "segmentation": {"size": SIZE, "counts": compressed["counts"].decode()},
                },
                {"image_id": 2, "category_id": 1, "bbox": [10, 4, 10, 8], "segmentation": []},
                {"image_id": 5, "category_id": 9, "bbox": []},
            ],
        )
    )
    assert recognise(tmp_path) == "coco"
    samples, files = read_dataset("coco", tmp_path)
    assert [(s.path.name, s.source_label, s.is_normal, s.source_split) for s in samples] == [
        ("a.png", "dent+scratch", False, "validation"),
        ("b.png", "scratch", False, "validation"),
        ("c.png", "dent", False, "validation"),
        ("e.png", "good", True, "validation"),
        ("f.png", "good", True, "validation"),
    ]
    first, second, third = (s.mask for s in samples[:3])
    assert isinstance(first, RunLengths)
    expected = mask * 255
    assert np.array_equal(draw_runs(second, SIZE), expected)
    expected[4:12, 10:20] = 255
    assert np.array_equal(draw_runs(first, SIZE), expected)
    assert third is None
    box = samples[2].boxes[0]
    assert (box.label, box.xmin, box.ymin, box.xmax, box.ymax) == ("dent", 10, 4, 19, 11)
    # d.png and g.png are listed without annotation: no proof that they are good
    assert files.rejected == []
    assert [note.reason.partition(":")[0] for note in files.notes] == [
        "no annotation says what is shown on 2 image(s), such as images/d.png"
    ]


def test_broken_coco_entries_cost_their_image_and_no_other(tmp_path, pictures):
    for number in range(8):
        draw(tmp_path, f"train/{number}.png", pictures[number])
    draw(tmp_path, "train/good/8.png", pictures[8])
    annotations = [
        {"image_id": 0, "category_id": 1, "segmentation": [SQUARE]},
        {"image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3, 4]]},
        {"image_id": 2, "category_id": 1, "segmentation": [[1, 2, 300, 4, 300, 9]]},
        {"image_id": 3, "category_id": 7, "segmentation": [SQUARE]},
        {"image_id": 4, "category_id": 1, "bbox": [10, 10, -5, 5]},
        {"image_id": 5, "category_id": 1, "segmentation": {"size": SIZE, "counts": [1, 2]}},
        {"image_id": 6, "category_id": 1, "segmentation": {"size": SIZE, "counts": "~~"}},
        {"image_id": 7, "category_id": "x", "bbox": "none"},
        {"image_id": 8, "category_id": 1, "segmentation": [SQUARE]},
        {"image_id": 99, "category_id": 1},
    ]
    images = [(number, f"{number}.png") for number in range(8)] + [(8, "good/8.png"), (9, "gone.png")]
    images.append((10, "../../secret.png"))
    (tmp_path / "train/_annotations.coco.json").write_text(coco(images, annotations))
    assert recognise(tmp_path) == "coco"  # although train/good is MVTec AD's: a table counts more
    samples, files = read_dataset("coco", tmp_path)
    assert [(s.path.name, s.source_split) for s in samples] == [("0.png", "train")]
    refused = [r for r in files.rejected if r.path.endswith("png")]
    assert sorted(f"{r.path[-5:]} {r.reason.partition('json: ')[2]}" for r in refused) == [
        "1.png polygon of 4 numbers: x and y of three corners are needed",
        "2.png shape from (1, 2) to (300, 9) leaves its image of 64x48",
        "3.png annotations[3]: no category has the id 7",
        "4.png box of -5x5 pixels",
        "5.png run lengths that do not fill an image of 64x48 pixels",
        "6.png compressed run lengths with unknown characters",
        "7.png annotations[7]: bbox: Input should be a valid tuple",
        "8.png it is called good, but annotated as dent",
    ]
    assert sorted(r.reason for r in files.rejected if r.path.endswith("json")) == [
        "annotations[9]: no image has the id 99",
        "lists an image that is not there: ../../secret.png",
        "lists an image that is not there: gone.png",
    ]


@pytest.mark.parametrize("text", ["{", '{"images": 3, "annotations": [], "categories": []}', "[" * 100_000])
def test_a_broken_coco_file_is_refused_by_name(tmp_path, pictures, text):
    draw(tmp_path, "a.png", pictures[0])
    (tmp_path / "a.json").write_text(text + ' "images" "annotations" "categories"')
    _, files = read_dataset("coco", tmp_path)
    assert [r.path for r in files.rejected] == ["coco/a.json"]
    assert files.rejected[0].reason.startswith("unreadable COCO file: ")


def test_annotations_of_another_size_are_refused(tmp_path, pictures):
    """The images were scaled after they had been annotated: every shape would lie in the wrong place."""
    draw(tmp_path, "a.png", pictures[0])
    draw(tmp_path, "b.png", pictures[1])
    shapes = [
        {"image_id": 0, "category_id": 1, "segmentation": [SQUARE]},
        {"image_id": 1, "category_id": 1, "bbox": [10, 4, 10, 8]},
    ]
    (tmp_path / "a.json").write_text(coco([(0, "a.png"), (1, "b.png")], shapes, size=(96, 128)))
    found, files = examine_dataset(DatasetSpec("coco", tmp_path), ["dent"], 32)
    assert found == []
    assert reasons(files) == {
        f"coco/{name}.png": "annotated as 128x96 pixels, but the image has 64x48" for name in "ab"
    }


def test_ids_that_two_entries_share_cost_their_images(tmp_path, pictures):
    """Nobody can say which image, or which class, an annotation with such an id means."""
    for number in range(5):
        draw(tmp_path, f"{number}.png", pictures[number])
    annotations = [
        {"image_id": 0, "category_id": 1, "bbox": [10, 4, 10, 8]},
        {"image_id": 1, "category_id": 1, "bbox": [10, 4, 10, 8]},
        {"image_id": 3, "category_id": 2, "bbox": [10, 4, 10, 8]},
    ]
    content = json.loads(coco([(0, "0.png"), (1, "1.png"), (1, "2.png"), (3, "3.png")], annotations))
    content["categories"] += [{"id": 2, "name": "pit"}, {"id": 1, "name": "dent"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    samples, files = read_dataset("coco", tmp_path)
    assert [(s.path.name, s.source_label) for s in samples] == [("0.png", "dent")]
    assert reasons(files) == {
        "coco/a.json": "categories[3]: a second name for the id 2",
        "coco/1.png": "a.json: two images have the id 1",
        "coco/2.png": "a.json: two images have the id 1",
        "coco/3.png": "a.json: annotations[2]: two categories have the id 2",
    }


def test_inspection_takes_masks_from_coco(tmp_path, pictures):
    for number in range(12):
        draw(tmp_path, f"raw/good/{number}.png", pictures[number])
    draw(tmp_path, "raw/dent.png", pictures[20])
    images = [(number, f"good/{number}.png") for number in range(12)] + [(20, "dent.png")]
    annotation = {"image_id": 20, "category_id": 1, "segmentation": [SQUARE]}
    (tmp_path / "raw/a.json").write_text(coco(images, [annotation]))
    counts, rejected = build_inspection("coco", tmp_path / "raw", tmp_path / "out", seed=0)
    assert (counts.test["dent"], counts.without_mask, rejected) == (1, 0, [])
    with Image.open(tmp_path / "out/ground_truth/dent/dent_mask.png") as mask:
        assert (np.asarray(mask) > 0).sum() == 80


def test_shapes_agree_with_the_published_implementation():
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radii = rng.uniform(8, 22, 9)
        corners = np.stack([32 + radii * np.cos(angles), 24 + radii * np.sin(angles)], 1).ravel().tolist()
        reference = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects([corners], *SIZE))) > 0
        filled = fill_polygon(corners, SIZE)
        assert (filled & reference).sum() / (filled | reference).sum() > 0.9
        noise = np.asfortranarray(rng.random(SIZE) < rng.uniform(0, 1))
        counts = coco_masks.encode(noise.astype(np.uint8))["counts"].decode()
        assert np.array_equal(fill_runs(counts, SIZE), noise)
        assert np.array_equal(draw_runs(runs_of(noise), SIZE) > 0, noise)
    with pytest.raises(RejectedFileError, match="end inside a number"):
        fill_runs("o", SIZE)


# ------------------------------------------------------------------------------------------- any content

NAMES = ["a.png", "b.png", "good/c.png", "../x.png", "x" * 300]
CELLS = [*NAMES, "", "good", "dent", "..", "val", "\u00fc", '"', ";", "\0"]


@pytest.fixture(scope="module")
def three(tmp_path_factory, pictures) -> Path:
    root = tmp_path_factory.mktemp("three")
    for number, name in enumerate(("a.png", "b.png", "good/c.png")):
        draw(root, name, pictures[number])
    return root


def check_result(root: Path, adapter: str) -> None:
    """Whatever an annotation file holds: a `UserError`, or images that exist and printable reasons."""
    try:
        samples, files = read_dataset(adapter, root)
    except UserError:
        return
    for sample in samples:
        assert sample.path.is_file()
        assert sample.path.resolve().is_relative_to(root.resolve())
        assert 0 < len(sample.source_label.replace(".", "")) <= 201  # two labels and a plus
        assert sample.is_normal == (sample.source_label == "good")
        if isinstance(sample.mask, RunLengths):
            assert draw_runs(sample.mask, sample.size).shape == sample.size
    paths = [sample.path for sample in samples]
    assert len(set(paths)) == len(paths)
    for item in [*files.rejected, *files.notes]:
        assert f"{item.path} {item.reason}".isprintable()


@given(
    rows=st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=6), max_size=6),
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"]),
    cut=st.integers(0, 400),
)
@settings(max_examples=80, deadline=None)
def test_any_table_is_read_or_refused_by_name(three, rows, separator, encoding, cut):
    lines = [["path", "label", "mask", "group", "split"], *rows]
    content = "\n".join(separator.join(line) for line in lines).encode(encoding)
    (three / "t.csv").write_bytes(content if cut > 300 else content[:cut])
    check_result(three, "csv_table")


NUMBERS = [-1, 0, 3, 10**30, float("nan"), float("inf"), [[float("nan")] * 6]]
ODD = [*NUMBERS, None, True, "", "x" * 300, "\ud800", "good", [], {}]
KEYS = ["id", "file_name", "width", "height", "name", "image_id", "category_id", "bbox", "segmentation"]


@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(["images", "annotations", "categories"]),
            st.integers(0, 2),
            st.sampled_from(KEYS),
            st.sampled_from(ODD),
        ),
        max_size=4,
    ),
    cut=st.integers(0, 3000),
)
@settings(max_examples=120, deadline=None)
def test_any_coco_file_is_read_or_refused_by_name(three, changes, cut):
    counts = {"size": list(SIZE), "counts": [100, 5, SIZE[0] * SIZE[1] - 105]}
    shapes = [
        {"image_id": 0, "category_id": 1, "bbox": [10, 4, 10, 8], "segmentation": [SQUARE]},
        {"image_id": 1, "category_id": 2, "segmentation": counts},
        {"image_id": 2, "category_id": 9},
    ]
    content = json.loads(coco([(0, "a.png"), (1, "b.png"), (2, "good/c.png")], shapes))
    for section, index, key, value in changes:
        content[section][index][key] = value
    text = json.dumps(content)
    (three / "t.json").write_text(text if cut > 2000 else text[:cut] + '"images" "annotations" "categories"')
    check_result(three, "coco")


def test_boxes_of_a_merged_set_have_the_names_of_classes(tmp_path, pictures, inspection_folder):
    names = [f"{number}.png" for number in range(6)]
    for name, picture in zip(names, pictures[:6], strict=True):
        draw(tmp_path / "raw/coco", name, picture)
    boxes = [{"image_id": number, "category_id": 1, "bbox": [10, 4, 10, 8]} for number in range(6)]
    (tmp_path / "raw/coco/boxes.json").write_text(coco(list(enumerate(names)), boxes))
    result = merge_datasets(
        [DatasetSpec("coco", tmp_path / "raw/coco", {"dent": "pits"})],
        InspectionSpec("mvtec_ad", inspection_folder),
        tmp_path / "merged",
        tmp_path / "reports",
        MergeOptions(["pits"], 32, 0.2, 0.2, seed=0),
    )
    assert {box["label"] for text in result.table["boxes"] for box in json.loads(text)} == {"pits"}
    assert result.summary["boxes_of_another_class"] == 0
