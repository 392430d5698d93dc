"""Near-duplicates on a line with a fixed camera, where all good parts look alike.

There, similarity alone would make one scene of a whole class. So each class is judged by its usual
similarity: where most of it forms one scene, the class's median image is taken off, and what remains decides
whether two images show one part. If the class still is one scene, similarity says nothing about it, and each
file counts as a scene of its own. Where users know better, they name the scenes (see `scene_links`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metaldefect.errors import UserError
from metaldefect.ingest.adapters import RawSample
from metaldefect.ingest.groups import (
    MIN_DETAIL,
    SCENE_CORRELATION,
    Fingerprint,
    Pair,
    apply_symmetry,
    correlation,
    detail,
    first_of_each,
    near_duplicate_pairs,
)

if TYPE_CHECKING:  # importing it takes a second, and `metaldefect check` should not wait for it
    from metaldefect.ingest.examine import DatasetSpec, Examined

FEWEST_IMAGES = 10  # of a class whose usual similarity can be judged
MOST = 0.5  # share of a class in one scene from which its images count as alike


def find_scenes(
    datasets: Sequence[DatasetSpec], examined: Sequence[Examined]
) -> tuple[list[Pair], list[tuple[int, int]], list[str]]:
    """Near-duplicates, links between images by the users' rules, and notes on classes that look alike."""
    prints = [item.fingerprint for item in examined]
    pairs, notes = judge_pairs(prints, [item.label for item in examined], near_duplicate_pairs(prints))
    links: list[tuple[int, int]] = []
    for spec in datasets:
        own = [number for number, item in enumerate(examined) if item.raw.source == spec.source]
        raws = [examined[number].raw for number in own]
        named = named_links(spec.scenes, raws, [examined[number].source_path for number in own])
        if named is None:
            continue
        inside = set(own)
        pairs = [pair for pair in pairs if not (pair.first in inside and pair.second in inside)]
        links += [(own[one], own[other]) for one, other in named]
    return pairs, links, notes


def judge_pairs(
    fingerprints: Sequence[Fingerprint], labels: Sequence[str], pairs: Sequence[Pair]
) -> tuple[list[Pair], list[str]]:
    """Keep the pairs that are more alike than their class usually is.

    Args:
        fingerprints: of the images.
        labels: class of each image.
        pairs: from `near_duplicate_pairs`.

    Returns:
        The pairs to keep, with the similarity that decided, and one note per class that was judged anew.
    """
    kept, notes = list(pairs), []
    names = np.array(labels, dtype=object)
    for label in sorted(set(labels)):
        members = np.flatnonzero(names == label)
        crowd = largest_scene(members, kept)
        if len(members) < FEWEST_IMAGES or crowd <= MOST * len(members):
            continue
        inside = set(members.tolist())
        own = [pair for pair in kept if pair.first in inside and pair.second in inside]
        others = [pair for pair in kept if not (pair.first in inside and pair.second in inside)]
        judged = more_alike_than_usual(fingerprints, members, own)
        note = (
            f"{crowd} of {len(members)} images of {label!r} look alike, as under a fixed camera: they are"
            " compared without what they share"
        )
        if largest_scene(members, judged) > MOST * len(members):
            judged = []
            note = (
                f"{crowd} of {len(members)} images of {label!r} look alike even without what they share: each"
                " file counts as its own scene; if several files show one part, set `scenes` of the dataset"
            )
        kept = sorted([*others, *judged], key=lambda pair: (pair.first, pair.second))
        notes.append(note)
    return kept, notes


def largest_scene(members: NDArray[np.int64], pairs: Sequence[Pair]) -> int:
    """The number of a class's images in its largest scene, linked by pairs within the class."""
    place = {int(index): number for number, index in enumerate(members)}
    edges = [
        (place[pair.first], place[pair.second])
        for pair in pairs
        if pair.first in place and pair.second in place
    ]
    return int(np.bincount(first_of_each(len(members), edges)).max(initial=0)) if len(members) else 0


def more_alike_than_usual(
    fingerprints: Sequence[Fingerprint], members: NDArray[np.int64], pairs: Sequence[Pair]
) -> list[Pair]:
    """The pairs that stay similar when the median image of the class is taken off both images."""
    usual = np.median(np.stack([fingerprints[index].pixels for index in members]).astype(np.float32), axis=0)
    usual -= usual.mean()
    energy = float((usual**2).sum())

    def rest(pixels: NDArray[np.float16]) -> NDArray[np.float64]:
        # Fit the share of the usual image first: exposures differ
        values = pixels.astype(np.float64)
        return values - (values * usual).sum() / max(energy, 1e-9) * usual

    kept = []
    for pair in pairs:
        one = rest(fingerprints[pair.first].pixels)[None]
        other = rest(apply_symmetry(fingerprints[pair.second].pixels, pair.symmetry))[None]
        value, fine = float(correlation(one, other)[0]), float(correlation(detail(one), detail(other))[0])
        if value >= SCENE_CORRELATION and fine >= MIN_DETAIL:
            kept.append(replace(pair, correlation=value, detail=fine))
    return kept


def named_links(
    rule: str | None, raws: Sequence[RawSample], paths: Sequence[str]
) -> list[tuple[int, int]] | None:
    """Links between images that show one part: by the user's rule, else by the dataset's own groups.

    Args:
        rule: see `scene_links`.
        raws: the images; one without a group is a scene of its own.
        paths: path of each image in the dataset.

    Returns:
        None if nobody names scenes, so that similarity decides.
    """
    if rule is not None:
        return scene_links(rule, paths)
    if all(raw.scene is None for raw in raws):
        return None
    return links_by(
        [
            f"path {path}" if raw.scene is None else f"group {raw.scene}"
            for raw, path in zip(raws, paths, strict=True)
        ]
    )


def scene_links(rule: str, paths: Sequence[str]) -> list[tuple[int, int]]:
    """Links between the files of a dataset that show one part, by a rule of the user.

    Args:
        rule: `file` (each its own scene), `folder`, or a regular expression whose first group, found in the
            path, names the scene, such as `part(\\d+)`.
        paths: path of each file in the dataset.

    Raises:
        UserError: the expression is broken, has no group, or does not fit a path.
    """
    if rule == "file":
        return []
    if rule == "folder":
        return links_by([path.rpartition("/")[0] for path in paths])
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UserError(f"scenes: {rule!r} is no regular expression: {error}") from error
    if not pattern.groups:
        raise UserError(f"scenes: {rule!r} has no group (...) that names the scene")
    keys = []
    for path in paths:
        match = pattern.search(path)
        if match is None:
            raise UserError(f"scenes: {rule!r} is not found in {path}")
        keys.append(str(match[1]))
    return links_by(keys)


def links_by(keys: Sequence[str]) -> list[tuple[int, int]]:
    """A link from each position to the first with the same key."""
    first: dict[str, int] = {}
    return [
        (first[key], number) for number, key in enumerate(keys) if first.setdefault(key, number) != number
    ]
