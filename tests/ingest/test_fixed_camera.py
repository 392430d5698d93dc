"""Parts that all look alike under a fixed camera stay different parts, and copies of one are found."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from metaldefect.errors import UserError
from metaldefect.ingest.fixed_camera import judge_pairs, scene_links
from metaldefect.ingest.groups import fingerprint, first_of_each, near_duplicate_pairs
from metaldefect.ingest.inspection import build_inspection


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
