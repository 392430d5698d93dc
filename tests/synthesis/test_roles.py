"""Which images stay normal and which validate: whole scenes, and never none or all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaldefect.images import write_png
from metaldefect.procedural.images import generate_normal_image
from metaldefect.synthesis.roles import assign_roles, scenes_of


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Three scenes with one file name, of which the first is there twice."""
    root = tmp_path_factory.mktemp("photos")
    found = {}
    for number, name in enumerate(("day1/cam.png", "day2/cam.png", "day3/cam.png")):
        write_png(root / name, generate_normal_image(number, 96))
        found[root / name] = name
    write_png(root / "copy.png", generate_normal_image(0, 96))
    return {**found, root / "copy.png": "copy.png"}


def test_files_of_one_name_in_several_folders_are_several_scenes(names: dict[Path, str]) -> None:
    scenes, unreadable = scenes_of(names)
    assert unreadable == {}
    assert list(scenes.values()) == ["day1/cam.png", "day2/cam.png", "day3/cam.png", "day1/cam.png"]


@pytest.mark.parametrize("seed", range(12))
def test_few_scenes_train_and_validate(seed: int, names: dict[Path, str]) -> None:
    roles = assign_roles(names, "yolo", seed)
    splits = {name: roles.split(path) for path, name in names.items()}
    assert set(splits.values()) == {"train", "val"}
    assert splits["copy.png"] == splits["day1/cam.png"]


def test_a_single_scene_trains(names: dict[Path, str]) -> None:
    path = next(iter(names))
    for seed in range(12):
        assert assign_roles({path: names[path]}, "voc", seed).split(path) == "train"
