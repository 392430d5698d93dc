"""Near-duplicates on a line with a fixed camera, where all good parts look alike.

There, similarity alone would make one scene of whole classes. So each class is judged by its usual
similarity: where most of it lies in one scene, the class's median image is taken off, and what remains
decides whether two images show one part. If the class still is one scene, similarity says nothing about it,
and each file counts as a scene of its own.

The camera is the same for all classes, so a pair of two classes is judged by the usual images of both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from metaldefect.ingest.groups import (
    Fingerprint,
    Pair,
    apply_symmetry,
    compare,
    first_of_each,
)

FEWEST_IMAGES = 10  # of a class whose usual similarity can be judged
MOST = 0.5  # share of a class in one scene from which its images count as alike

# What the images of a class share, `float64 [S, S]`; None: they cannot be told apart without it either
Usual = NDArray[np.float64] | None


def judge_pairs(
    fingerprints: Sequence[Fingerprint], labels: Sequence[str], pairs: Sequence[Pair]
) -> tuple[list[Pair], list[str]]:
    """Keep the pairs that are more alike than their classes usually are.

    Args:
        fingerprints: of the images.
        labels: class of each image.
        pairs: from `near_duplicate_pairs`.

    Returns:
        The pairs to keep, with the similarity that decided, and one note per class that was judged anew.
    """
    names = np.array(labels, dtype=object)
    scenes = first_of_each(len(labels), pairs)
    own: dict[str, list[Pair]] = {}
    for pair in pairs:
        if labels[pair.first] == labels[pair.second]:
            own.setdefault(labels[pair.first], []).append(pair)
    usual: dict[str, Usual] = {}
    kept: list[Pair] = []
    notes = []
    for label in sorted(set(labels)):
        members = np.flatnonzero(names == label)
        crowd = most_frequent(scenes[members])
        if len(members) < FEWEST_IMAGES or crowd <= MOST * len(members):
            continue
        shared = usual_image([fingerprints[index] for index in members.tolist()])
        alike = more_alike_than_usual(fingerprints, own.get(label, []), shared)
        alone = most_frequent(first_of_each(len(labels), alike)[members]) > MOST * len(members)
        usual[label] = None if alone else shared
        kept += [] if alone else alike
        notes.append(note_on(label, crowd, len(members), alone))
    kept += judge_others(fingerprints, labels, pairs, usual)
    return sorted(kept, key=lambda pair: (pair.first, pair.second)), notes


def judge_others(
    fingerprints: Sequence[Fingerprint],
    labels: Sequence[str],
    pairs: Sequence[Pair],
    usual: Mapping[str, Usual],
) -> list[Pair]:
    """The pairs to keep of those that do not lie inside one class of `usual`.

    An image of another class that looks like images of a class of `usual` comes from the same camera, so its
    pairs are judged by that class's usual image too.
    """
    seen = [{label} & usual.keys() for label in labels]
    for pair in pairs:
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            if labels[one] not in usual and labels[other] in usual:
                seen[one].add(labels[other])
    kept = [pair for pair in pairs if not (labels[pair.first] == labels[pair.second] in usual)]
    for label, shared in usual.items():
        concerned = [label in seen[pair.first] | seen[pair.second] for pair in kept]
        judged = [pair for pair, is_concerned in zip(kept, concerned, strict=True) if is_concerned]
        kept = [pair for pair, is_concerned in zip(kept, concerned, strict=True) if not is_concerned]
        kept += [] if shared is None else more_alike_than_usual(fingerprints, judged, shared)
    return kept


def note_on(label: str, crowd: int, count: int, alone: bool) -> str:
    """What the user should know about a class that was judged anew."""
    if alone:
        return (
            f"{crowd} of {count} images of {label!r} look alike even without what they share: each"
            " file counts as its own scene; if several files show one part, set `scenes` of the dataset"
        )
    return (
        f"{crowd} of {count} images of {label!r} look alike, as under a fixed camera: they are"
        " compared without what they share"
    )


def most_frequent(values: NDArray[np.int64]) -> int:
    """How often the most frequent value occurs."""
    return max(Counter(values.tolist()).values(), default=0)


def usual_image(fingerprints: Sequence[Fingerprint]) -> NDArray[np.float64]:
    """The median image of a class without its mean, `float64 [S, S]`."""
    median = np.median(np.stack([item.pixels for item in fingerprints]).astype(np.float32), axis=0)
    return (median - median.mean()).astype(np.float64)


def without(usual: NDArray[np.float64], pixels: NDArray[np.float16]) -> NDArray[np.float64]:
    """Take the usual image off `[N, S, S]`, in the share that fits best, because exposures differ."""
    values = pixels.astype(np.float64)
    share = (values * usual).sum(axis=(1, 2), keepdims=True) / max(float((usual**2).sum()), 1e-9)
    return values - share * usual


def more_alike_than_usual(
    fingerprints: Sequence[Fingerprint], pairs: Sequence[Pair], usual: NDArray[np.float64]
) -> list[Pair]:
    """The pairs that stay similar when the usual image is taken off both images."""

    def key(pair: Pair) -> tuple[int, int]:
        return pair.first, pair.symmetry

    kept = []
    for (first, symmetry), found in groupby(sorted(pairs, key=key), key):
        candidates = list(found)
        seconds = np.stack([fingerprints[pair.second].pixels for pair in candidates])
        one = without(usual, fingerprints[first].pixels[None])[0]
        alike, values, details = compare(one, without(usual, apply_symmetry(seconds, symmetry)))
        kept += [
            replace(candidates[index], correlation=float(value), detail=float(fine))
            for index, value, fine in zip(alike.tolist(), values, details, strict=True)
        ]
    return kept
