"""Splits do not leak, do not move, and leave no class without one."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from metaldefect.errors import UserError
from metaldefect.ingest.splits import across_splits, assign_splits, position, sampling_weights

KEYS = [f"scene-{n}" for n in range(2000)]


def test_position_is_fixed_for_a_key_and_seed():
    # int.from_bytes(hashlib.sha256(b"42:abc").digest()[:7], "big") / 2**56
    assert position("abc", 42) == 0.2983567880177597
    assert position("abc", 43) != position("abc", 42)


def test_fractions_hold_on_average():
    splits, moved = assign_splits(KEYS, ["a"] * 2000, seed=1, validation=0.1, test=0.2)
    counts = Counter(splits)
    assert abs(counts["validation"] - 200) < 60
    assert abs(counts["test"] - 400) < 75
    assert moved == []


def test_a_scene_stays_together_and_the_seed_matters():
    scenes = [key for key in KEYS for _ in range(2)]
    splits, _ = assign_splits(scenes, ["a"] * 4000, seed=1, validation=0.1, test=0.1)
    assert splits[::2] == splits[1::2]
    assert splits[::2] != assign_splits(KEYS, ["a"] * 2000, seed=2, validation=0.1, test=0.1)[0]


def test_adding_images_moves_no_old_one():
    old, _ = assign_splits(KEYS[::2], ["a"] * 1000, seed=5, validation=0.15, test=0.1)
    new, _ = assign_splits(KEYS, ["a"] * 2000, seed=5, validation=0.15, test=0.1)
    assert new[::2] == old


@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize("seed", range(10))
def test_a_tiny_class_has_every_split(count, seed):
    splits, moved = assign_splits(KEYS[:count], ["a"] * count, seed=seed, validation=0.1, test=0.1)
    assert set(splits) == {"train", "validation", "test"}
    assert len(moved) <= 2


@pytest.mark.parametrize("seed", range(10))
def test_a_small_class_gets_its_share_in_every_split(seed):
    splits, _ = assign_splits(KEYS[:14], ["a"] * 14, seed=seed, validation=0.15, test=0.2)
    assert splits.count("test") >= 3  # 14 x 0.2 = 2.8
    assert splits.count("validation") >= 2  # 2.1
    assert splits.count("train") >= 6


def test_a_class_of_two_scenes_is_an_error():
    with pytest.raises(UserError, match=r"class 'b' has 2 scene\(s\)"):
        assign_splits(["x", "y", "y"], ["b"] * 3, seed=0, validation=0.1, test=0.1)


def test_leaks_are_counted():
    table = pd.DataFrame({"group": ["g", "g", "h"], "split": ["train", "test", "test"]})
    assert across_splits(table, "group") == 1


def test_weights_balance_classes_and_sources():
    labels, sources = ["a"] * 4 + ["b"] * 2, ["x", "x", "x", "y", "x", "x"]
    weights = sampling_weights(labels, sources)
    # a: 1/2 from x over three images, 1/2 from y on one; b: all from x over two; mean 1
    assert weights.tolist() == pytest.approx([0.5, 0.5, 0.5, 1.5, 1.5, 1.5])
