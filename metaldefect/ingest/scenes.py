"""Which images show one part: as users or the dataset say, else those that look alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metaldefect.errors import UserError
from metaldefect.ingest.adapters import RawSample
from metaldefect.ingest.fixed_camera import judge_pairs
from metaldefect.ingest.groups import Pair, near_duplicate_pairs

if TYPE_CHECKING:  # importing it takes a second, and `metaldefect check` should not wait for it
    from metaldefect.ingest.examine import DatasetSpec, Examined


def find_scenes(
    datasets: Sequence[DatasetSpec], examined: Sequence[Examined]
) -> tuple[list[Pair], list[tuple[int, int]], list[str]]:
    """Near-duplicates, links between images by the users' rules, and notes on classes that look alike."""
    prints = [item.fingerprint for item in examined]
    # A class of two datasets has two cameras
    classes = [f"{item.raw.source}/{item.label}" for item in examined]
    pairs, notes = judge_pairs(prints, classes, near_duplicate_pairs(prints))
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
