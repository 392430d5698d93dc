"""Parts that all look alike under a fixed camera stay different parts, and copies of one are found."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from metaldefect.efficientad.distillation_data import scenes
from metaldefect.errors import UserError
from metaldefect.ingest.examine import DatasetSpec
from metaldefect.ingest.fixed_camera import judge_pairs
from metaldefect.ingest.groups import fingerprint, first_of_each, near_duplicate_pairs
from metaldefect.ingest.inspection import build_inspection
from metaldefect.ingest.merge import InspectionSpec, MergeOptions, MergeResult, merge_datasets
from metaldefect.ingest.scenes import scene_links
from metaldefect.synthesis.roles import assign_roles


def part(key: int, exposure: float = 1.0) -> np.ndarray:
    """The same housing in every image, with a grain of its own per part."""
    rows, columns = np.mgrid[:128, :128]
    housing = 80.0 + 60.0 * ((rows - 64) ** 2 + (columns - 50) ** 2 < 40**2) + 40.0 * (columns > 100)
    housing += 25.0 * ((rows // 6 + columns // 6) % 2)
    grain = gaussian_filter(np.random.default_rng(key).normal(size=(128, 128)), 2)
    return np.clip((housing + 4 * grain / grain.std()) * exposure, 0, 255).astype(np.uint8)


def as_jpeg(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return np.asarray(Image.open(stream))


def test_similar_parts_are_not_one_scene_and_copies_are() -> None:
    images = [part(k) for k in range(30)]
    images += [as_jpeg(part(3)), part(7, 0.8)]
    prints = [fingerprint(image) for image in images]
    pairs = near_duplicate_pairs(prints)
    assert first_of_each(32, pairs).tolist() == [0] * 32, "similarity alone makes one scene of all"
    kept, notes = judge_pairs(prints, ["good"] * 32, pairs)
    assert [(pair.first, pair.second) for pair in kept] == [(3, 30), (7, 31)]
    assert notes == [
        "32 of 32 images of 'good' look alike, as under a fixed camera: they are compared without what they"
        " share"
    ]


def test_images_that_cannot_be_told_apart_are_files_of_their_own() -> None:
    prints = [fingerprint(part(0)) for _ in range(12)]
    kept, notes = judge_pairs(prints, ["good"] * 12, near_duplicate_pairs(prints))
    assert kept == []
    assert "each file counts as its own scene" in notes[0]


def test_ordinary_classes_keep_their_pairs(texture) -> None:
    images = [texture(k, 128) for k in range(12)] + [as_jpeg(texture(5, 128))]
    prints = [fingerprint(image) for image in images]
    pairs = near_duplicate_pairs(prints)
    assert judge_pairs(prints, ["good"] * 13, pairs) == (pairs, [])
    assert [(pair.first, pair.second) for pair in pairs] == [(5, 12)]


@pytest.mark.parametrize(
    ("rule", "links"),
    [
        ("file", []),
        ("folder", [(0, 1), (2, 3)]),
        (r"part(\d+)", [(0, 2), (1, 3)]),
    ],
)
def test_users_name_the_scenes(rule, links) -> None:
    paths = ["a/part1_x.png", "a/part2_x.png", "b/part1_y.png", "b/part2_y.png"]
    assert scene_links(rule, paths) == links


@pytest.mark.parametrize(
    ("rule", "message"),
    [("(", "no regular expression"), ("part", "has no group"), (r"(\d{9})", "not found in a1")],
)
def test_broken_rules_are_errors(rule, message) -> None:
    with pytest.raises(UserError, match=message):
        scene_links(rule, ["a1.png"])


def test_a_line_with_a_fixed_camera_makes_a_dataset(tmp_path, save) -> None:
    for k in range(45):
        save(tmp_path / f"plant/good/{k:03d}.png", part(k))
    counts, rejected = build_inspection("folder", tmp_path / "plant", tmp_path / "out", seed=0)
    assert rejected == []
    assert min(counts.train, counts.validation, counts.canvas, counts.test["good"]) >= 2
    assert ["45 of 45 images of 'good' look alike" in note for note in counts.notes] == [True]


def spoilt(key: int, label: str) -> np.ndarray:
    """A part with a dark dent or a bright scratch somewhere."""
    image = part(key).astype(np.int16)
    row, column = np.random.default_rng(10_000 + key).integers(8, 96, 2)
    if label == "dent":
        image[row : row + 8, column : column + 8] -= 24
    else:
        image[row : row + 16, column : column + 2] += 30
    return np.clip(image, 0, 255).astype(np.uint8)


def test_pairs_of_two_classes_are_judged_by_what_both_share() -> None:
    images = [part(k) for k in range(30)] + [spoilt(k, "dent") for k in range(100, 115)]
    images += [spoilt(k, "scratch") for k in range(200, 204)]  # too few to be judged by themselves
    images += [as_jpeg(part(3)), as_jpeg(spoilt(200, "scratch"))]
    labels = ["good"] * 30 + ["dent"] * 15 + ["scratch"] * 4 + ["dent", "good"]
    prints = [fingerprint(image) for image in images]
    pairs = near_duplicate_pairs(prints)
    assert first_of_each(51, pairs).tolist() == [0] * 51
    kept, notes = judge_pairs(prints, labels, pairs)
    assert [(pair.first, pair.second) for pair in kept] == [(3, 49), (45, 50)]
    assert [note.partition(" look")[0] for note in notes] == [
        "16 of 16 images of 'dent'",
        "31 of 31 images of 'good'",
    ]


def test_a_class_that_cannot_be_told_apart_is_linked_to_no_other() -> None:
    prints = [fingerprint(part(0)) for _ in range(12)] + [fingerprint(part(k)) for k in range(1, 4)]
    labels = ["good"] * 12 + ["dent"] * 3
    kept, _ = judge_pairs(prints, labels, near_duplicate_pairs(prints))
    assert kept == []


def write_line(root: Path, save) -> None:
    """20 dents, 20 scratches and 20 good parts under one camera; two dents are one photograph."""
    for k in range(20):
        save(root / f"good/{k:03d}.png", part(k))
        save(root / f"dent/{k:03d}.png", spoilt(100 + k, "dent"))
        save(root / f"scratch/{k:03d}.png", spoilt(200 + k, "scratch"))
    save(root / "dent/020.png", as_jpeg(spoilt(105, "dent")))


def merge_line(folder: Path, classes: list[str]) -> MergeResult:
    """Merge the line's images, some of which serve the detector too."""
    return merge_datasets(
        [DatasetSpec("folder", folder / "plant")],
        InspectionSpec("folder", folder / "plant"),
        folder / "merged",
        folder / "reports",
        MergeOptions(classes, image_size=64, validation=0.2, test=0.2, seed=0),
    )


def test_defects_of_a_line_with_a_fixed_camera_are_merged(tmp_path, save) -> None:
    write_line(tmp_path / "plant", save)
    result = merge_line(tmp_path, ["dent", "scratch"])
    assert result.summary["per_class"] == {"dent": 21, "scratch": 20}
    assert result.summary["scenes"] == 40
    assert [note.partition(" look")[0] for note in result.summary["notes"]] == [
        "21 of 21 images of 'folder/dent'",
        "20 of 20 images of 'folder/scratch'",
    ]


def test_defects_and_good_parts_in_one_class_list_are_merged(tmp_path, save) -> None:
    write_line(tmp_path / "plant", save)
    result = merge_line(tmp_path, ["dent", "good", "scratch"])
    assert result.summary["scenes"] == 60


def test_canvases_of_a_fixed_camera_get_different_roles(tmp_path, save) -> None:
    paths = [save(tmp_path / f"{k:03d}.png", part(k)) for k in range(45)]
    names = {path: path.name for path in paths}
    normals = len(assign_roles(names, "mvtec", seed=0).training_normals)
    assert 10 < normals < 35
    validation = len(assign_roles(names, "yolo", seed=0).validation)
    assert 2 < validation < 20


def test_a_distillation_holds_out_parts_of_a_fixed_camera() -> None:
    images = np.stack([*(part(k) for k in range(30)), as_jpeg(part(3))])
    assert scenes(images) == [*range(30), 3]
