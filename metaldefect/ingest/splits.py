"""Split by scene: leak-free, deterministic for a seed, and stable as data grows.

A keyed hash of its first image's content gives each scene (see `groups`) a position in [0, 1): below `test`
it goes to test, below `test + validation` to validation, else to train. Scenes do not affect each other, so
adding images does not move existing ones. In return, the fractions are exact only on average, overall and
within each class and source.

Small classes are the exception: where chance gives a split fewer scenes of a class than its share, and fewer
than `FEWEST`, the scenes nearest to that split's interval move there, and are reported. They move back once
others fall into the split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metaldefect.errors import UserError

SPLITS = ("train", "validation", "test")
# Scenes of a class on which a figure for the class can rest at all
FEWEST = 3


def position(key: str, seed: int) -> float:
    """A number in [0, 1) that depends only on `key` and `seed`."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def intervals(validation: float, test: float) -> dict[str, tuple[float, float]]:
    """Each split's interval of positions."""
    return {"test": (0.0, test), "validation": (test, test + validation), "train": (test + validation, 1.0)}


def assign_splits(
    scenes: Sequence[str], labels: Sequence[str], seed: int, validation: float, test: float
) -> tuple[list[str], list[str]]:
    """Assign each image to a split.

    Args:
        scenes: content key of each image's scene.
        labels: class of each image.
        seed: another seed gives another split.
        validation: expected share of scenes in validation, 0 to 1.
        test: expected share of scenes in test, 0 to 1.

    Returns:
        One of `SPLITS` per image, and the keys of scenes that were moved to fill a small class's split.

    Raises:
        UserError: a class has fewer than three scenes, too few for one per split.
    """
    spans = intervals(validation, test)
    places = {key: position(key, seed) for key in dict.fromkeys(scenes)}
    split_of = {
        key: next(split for split, (low, high) in spans.items() if low <= place < high)
        for key, place in places.items()
    }
    members: dict[str, list[str]] = {}
    for key, label in zip(scenes, labels, strict=True):
        members.setdefault(label, [])
        if key not in members[label]:
            members[label].append(key)
    moved: list[str] = []
    for label in sorted(members):
        fill_small_class(label, members[label], split_of, places, spans, moved)
    return [split_of[key] for key in scenes], moved


def fill_small_class(
    label: str,
    keys: list[str],
    split_of: dict[str, str],
    places: dict[str, float],
    spans: dict[str, tuple[float, float]],
    moved: list[str],
) -> None:
    """Give every split its share of a small class by moving the scenes nearest to its interval.

    Its share is that of all scenes, rounded, but at least one scene and no more than `FEWEST`.

    Updates `split_of` and appends the keys of moved scenes to `moved`.
    """
    if len(keys) < len(SPLITS):
        raise UserError(
            f"class {label!r} has {len(keys)} scene(s) that are not near-duplicates of one another: train, "
            "validation and test need one each; add images of it or leave the class out"
        )
    shares = {split: round((high - low) * len(keys)) for split, (low, high) in spans.items()}
    fewest = {split: max(1, min(FEWEST, share)) for split, share in shares.items()} | {"train": 1}
    for split, (low, high) in spans.items():
        while sum(split_of[key] == split for key in keys) < fewest[split]:
            held = {other: [key for key in keys if split_of[key] == other] for other in SPLITS}
            spare = [key for other, group in held.items() if len(group) > fewest[other] for key in group]
            nearest = min(spare, key=lambda key: (max(low - places[key], places[key] - high), key))
            split_of[nearest] = split
            moved.append(nearest)


def across_splits(table: pd.DataFrame, column: Literal["group", "scene"]) -> int:
    """Count the groups or scenes with images in more than one split; anything but 0 is a leak."""
    return int((table.groupby(column)["split"].nunique() > 1).sum())


def sampling_weights(labels: Sequence[str], sources: Sequence[str]) -> NDArray[np.float64]:
    """Weights `float64 [N]`, mean 1, that make sampling uniform over classes, and over sources in a class."""
    frame = pd.DataFrame({"label": list(labels), "source": list(sources)})
    images = frame.groupby(["label", "source"])["label"].transform("size")
    sources_of_label = frame.groupby("label")["source"].transform("nunique")
    weights = 1.0 / (images * sources_of_label).to_numpy(dtype=np.float64)
    return weights / weights.mean() if len(weights) else weights
