"""Prepare the detector's dataset in MVTec AD layout: normal images to train on, defects to test on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from metaldefect.artifacts import sha256_file
from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.image_files import Levels
from metaldefect.images import drop_equal_channels, resize, write_png
from metaldefect.ingest.adapters import (
    DatasetFiles,
    RawSample,
    Rejected,
    read_dataset,
)
from metaldefect.ingest.fixed_camera import judge_pairs
from metaldefect.ingest.groups import Fingerprint, Pair, fingerprint, first_of_each, near_duplicate_pairs
from metaldefect.ingest.levels import find_levels
from metaldefect.ingest.parallel import map_threads
from metaldefect.ingest.reading import check_good, read_image, read_known_mask
from metaldefect.ingest.samples import unique_names
from metaldefect.ingest.scenes import named_links
from metaldefect.ingest.splits import assign_splits, position
from metaldefect.inspection.layout import CANVAS, GOOD, mask_path, write_levels, write_scenes

# Shares of all normal images if the publisher has no split; shares of train if only one split is missing.
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2
VALIDATION_OF_TRAIN = 1 / 8
CANVASES_OF_TRAIN = 1 / 8
CANVAS_SCENES = 2  # defects for calibration and defects for the test must not share a canvas
COMPARED_SIDE = 128
SCENE_DIGITS = 16

MaskState = Literal["none", "empty", "drawn"]
Job = tuple[RawSample, str, str]  # image, split, `good` or the kind of defect


@dataclass(frozen=True)
class InspectionCounts:
    """Image counts of the detector's dataset.

    Attributes:
        train: normal images to train on.
        validation: normal images for choosing thresholds.
        canvas: normal images to insert defects into; 0 if the training normals show too few scenes.
        test: test images by type, including `good`.
        empty_masks: defective images whose mask is empty; they count only for image-level scores.
        without_mask: number of defective images that have no mask; they too count only for those.
        trained_on: number of defective images left out of the test because models learn from them.
        scenes_across_splits: scenes of normal images that the publisher put into several splits.
        notes: what the user should know about files that are not rejected.
    """

    train: int
    validation: int
    canvas: int
    test: dict[str, int]
    empty_masks: list[str]
    without_mask: int
    trained_on: int
    scenes_across_splits: int
    notes: list[str]


@dataclass(frozen=True)
class Fingerprinted:
    """An image, with the fingerprint and content hash that determine its scene and split."""

    raw: RawSample
    fingerprint: Fingerprint
    content: str


def build_inspection(
    adapter: str,
    root: Path,
    output: Path,
    seed: int,
    trained_on: Set[str] = frozenset(),
    levels: Levels | None = None,
    scene_rule: str | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
    source: str | None = None,
) -> tuple[InspectionCounts, list[Rejected]]:
    """Write a dataset in the layout of `metaldefect.inspection.layout`, in its original size and colours.

    All defects go to test, those without a mask too. If the publisher has no split, normal images are split
    70/10/20 into train, validation and test. If only validation is missing, it gets one in eight scenes of
    train. One in eight of the remaining train scenes becomes `canvas`, normal images that serve no other
    purpose than to insert defects into. Scenes never cross these splits (each magnetic tile was photographed
    under up to six exposures), and adding images does not move existing ones.

    Two scenes of training normals suffice for train and validation; canvases need four.

    Args:
        adapter: a name in `ADAPTERS`.
        root: the dataset's folder.
        output: folder to write to, created if missing.
        seed: determines the split.
        trained_on: SHA-256 of files that models learn from; such defects are no fair test and are left out.
        levels: how images with more than 8 bits are read; None: by their bit depth (see `find_levels`).
            The folder records them, for the detector to read the line's images alike.
        scene_rule: which files show one part (see `scene_links`); None: those that look alike.
        labels: other names for some of the dataset's labels; `good` means no defect.
        ignore: labels whose images are left out.
        source: the dataset's name in messages; None uses the adapter's.

    Returns:
        The counts of what was written, and the rejected files.

    Raises:
        UserError: `read_dataset` or `rename_labels` raises it, or the training normals show only one scene.
    """
    samples, files = read_dataset(adapter, root, source)
    samples = rename_labels(samples, labels or {}, ignore, root)
    levels = levels or find_levels([raw.path for raw in samples])
    normal = [raw for raw in samples if raw.is_normal]
    normals = take_fingerprints(normal, files, levels, "read normal images")
    if not normals:
        raise UserError(f"{root} holds no normal images: the detector trains only on those")
    defective = [raw for raw in samples if not raw.is_normal]
    found = take_fingerprints(defective, files, levels, "read defects")
    defects = [item for item in found if item.content not in trained_on]
    scenes = scenes_of(normals, files, scene_rule)
    splits, across = split_normals([item.raw.source_split for item in normals], scenes, seed)
    jobs: list[Job] = [(item.raw, split, GOOD) for item, split in zip(normals, splits, strict=True)]
    jobs += [(item.raw, "test", label_folder(item.raw.source_label)) for item in defects]
    scenes += scenes_of(defects, files, scene_rule)
    names = names_of(jobs, files)

    written, masks = write_images(jobs, names, scenes, output, levels, files)
    write_scenes(output, written)
    write_levels(output, levels)
    counts = Counter(path.rpartition("/")[0] for path in written)
    kinds = {folder.partition("/")[2]: n for folder, n in sorted(counts.items()) if folder[:5] == "test/"}
    summary = InspectionCounts(
        train=counts[f"train/{GOOD}"],
        validation=counts[f"validation/{GOOD}"],
        canvas=counts[f"{CANVAS}/{GOOD}"],
        test=kinds,
        empty_masks=sorted(masks["empty"]),
        without_mask=len(masks["none"]),
        trained_on=len(found) - len(defects),
        scenes_across_splits=across,
        notes=[f"{note.path}: {note.reason}" for note in files.notes],
    )
    return summary, files.rejected


def rename_labels(
    samples: Sequence[RawSample], labels: Mapping[str, str], ignore: Collection[str], root: Path
) -> list[RawSample]:
    """The samples that are not ignored, under the names that the user gives their labels.

    Raises:
        UserError: no image has a label that is renamed.
    """
    found = list(dict.fromkeys(raw.source_label for raw in samples))
    known = ", ".join(map(repr, found))
    for label in labels:
        if label not in found:
            raise UserError(
                f"{root}: `labels` of the inspection set maps {label!r}, but no image has this label;"
                f" labels found: {known}"
            )
    renamed = []
    for raw in samples:
        if raw.source_label in ignore:
            continue
        name = labels.get(raw.source_label)
        renamed.append(raw if name is None else replace(raw, source_label=name, is_normal=name == GOOD))
    return renamed


def write_images(
    jobs: Sequence[Job],
    names: Sequence[str],
    scenes: Sequence[str],
    output: Path,
    levels: Levels | None,
    files: DatasetFiles,
) -> tuple[dict[str, str], dict[MaskState, list[str]]]:
    """Write all images and masks; unusable files are recorded in `files.rejected` and left out.

    Returns:
        The scene of each image by its path in `output`, and the names of the defects by their mask's state.
    """

    def write_one(index: int) -> RejectedFileError | MaskState:
        raw, split, kind = jobs[index]
        try:
            return write_inspection_image(raw, output, split, kind, names[index], levels)
        except RejectedFileError as error:
            return error

    masks: dict[MaskState, list[str]] = {"none": [], "empty": [], "drawn": []}
    written = {}
    for index, result in enumerate(map_threads(write_one, range(len(jobs)), "write inspection images")):
        raw, split, kind = jobs[index]
        if isinstance(result, RejectedFileError):
            files.reject(raw.path, str(result))
            continue
        written[f"{split}/{kind}/{names[index]}.png"] = scenes[index]
        if kind != GOOD:
            masks[result].append(f"{kind}/{names[index]}")
    return written, masks


def take_fingerprints(
    samples: Sequence[RawSample], files: DatasetFiles, levels: Levels | None, description: str
) -> list[Fingerprinted]:
    """Fingerprint every image; unusable files are recorded in `files.rejected` and left out."""

    def examine(raw: RawSample) -> Fingerprinted | RejectedFileError:
        try:
            square = resize(read_image(raw, levels), COMPARED_SIDE)
        except RejectedFileError as error:
            return error
        return Fingerprinted(raw, fingerprint(square), sha256_file(raw.path))

    taken = []
    for raw, result in zip(samples, map_threads(examine, samples, description), strict=True):
        if isinstance(result, Fingerprinted):
            taken.append(result)
        else:
            files.reject(raw.path, str(result))
    return taken


def scenes_of(images: Sequence[Fingerprinted], files: DatasetFiles, rule: str | None) -> list[str]:
    """The scene key of each image: the content hash of the first image that shows the scene."""
    raws = [item.raw for item in images]
    edges: Sequence[Pair | tuple[int, int]] | None
    edges = named_links(rule, raws, [files.relative(raw.path) for raw in raws])
    if edges is None:
        prints = [item.fingerprint for item in images]
        labels = [item.raw.source_label for item in images]
        edges, notes = judge_pairs(prints, labels, near_duplicate_pairs(prints))
        for note in notes:
            files.note(files.root, note)
    first = first_of_each(len(images), edges)
    return [images[index].content[:SCENE_DIGITS] for index in first]


def split_normals(published: Sequence[str | None], scenes: Sequence[str], seed: int) -> tuple[list[str], int]:
    """Return the split of each normal image, and the number of scenes in several published splits.

    Scenes held out of the published `train` occur in no other split. A published validation image whose
    scene is also in test goes to `train`, because the threshold must not depend on test scenes.
    """
    if set(published) == {None}:
        splits, _ = assign_splits(scenes, [GOOD] * len(scenes), seed, VALIDATION_SHARE, TEST_SHARE)
        return hold_out_canvases(splits, scenes, seed), 0
    splits = [split or "train" for split in published]
    across = sum(len(found) > 1 for found in splits_by_scene(splits, scenes).values())
    in_test = {scene for scene, split in zip(scenes, splits, strict=True) if split == "test"}
    splits = [
        "train" if split == "validation" and scene in in_test else split
        for scene, split in zip(scenes, splits, strict=True)
    ]
    if "validation" not in splits:
        splits = hold_out_validation(splits, scenes, seed)
    return splits if CANVAS in splits else hold_out_canvases(splits, scenes, seed), across


def splits_by_scene(splits: Sequence[str], scenes: Sequence[str]) -> dict[str, set[str]]:
    """The splits in which each scene occurs."""
    found: dict[str, set[str]] = {}
    for scene, split in zip(scenes, splits, strict=True):
        found.setdefault(scene, set()).add(split)
    return found


def hold_out_validation(splits: Sequence[str], scenes: Sequence[str], seed: int) -> list[str]:
    """Move one in eight scenes of train, at least one, to validation.

    Raises:
        UserError: train has fewer than two scenes, or every one of them occurs in another split too.
    """
    found = splits_by_scene(splits, scenes)
    places = {scene: position(scene, seed) for scene, held in found.items() if held == {"train"}}
    if sum("train" in held for held in found.values()) < 2:
        raise UserError(
            "the normal training images show fewer than two scenes: none can be held out for validation;"
            " add normal images of another piece of metal"
        )
    if not places:
        raise UserError(
            "every scene of the normal training images is in another split too: none can be held out for"
            " validation; add normal images, or remove the duplicates from the test images"
        )
    chosen = lowest(places, VALIDATION_OF_TRAIN, 1)
    return [
        "validation" if split == "train" and scene in chosen else split
        for scene, split in zip(scenes, splits, strict=True)
    ]


def hold_out_canvases(splits: Sequence[str], scenes: Sequence[str], seed: int) -> list[str]:
    """Turn one in eight scenes of train, at least two, into canvases; none if train has no more."""
    found = splits_by_scene(splits, scenes)
    places = {
        scene: position(f"{CANVAS} {scene}", seed) for scene, held in found.items() if held == {"train"}
    }
    if len(places) <= CANVAS_SCENES:
        return list(splits)
    chosen = lowest(places, CANVASES_OF_TRAIN, CANVAS_SCENES)
    return [
        CANVAS if split == "train" and scene in chosen else split
        for scene, split in zip(scenes, splits, strict=True)
    ]


def lowest(places: Mapping[str, float], share: float, at_least: int) -> set[str]:
    """Choose the scenes whose place is below `share`, and at least the lowest `at_least`.

    The scene with the highest place stays out unless `at_least` requires it.
    """
    ranked = sorted(places, key=lambda scene: places[scene])
    below = sum(place < share for place in places.values())
    return set(ranked[: max(at_least, min(below, len(ranked) - 1))])


def write_inspection_image(
    raw: RawSample, output: Path, split: str, kind: str, name: str, levels: Levels | None
) -> MaskState:
    """Write one image, and its mask if it shows a defect; return what that mask shows.

    Raises:
        RejectedFileError: the image or its mask is unusable, or the mask of a good image marks a defect.
    """
    image = drop_equal_channels(read_image(raw, levels, colour=True))
    mask = read_known_mask(raw, (image.shape[0], image.shape[1]))
    check_good(raw, mask is not None and bool(mask.any()))
    write_png(output / split / kind / f"{name}.png", image)
    if kind == GOOD or mask is None:
        return "none"
    write_png(mask_path(output, kind, name), mask)
    return "drawn" if mask.any() else "empty"


def label_folder(label: str) -> str:
    """Turn a label into a folder name in MVTec's style: lower case with underscores."""
    return re.sub(r"[ /\\\\]", "_", printable(label.strip())).lower()


def names_of(jobs: Sequence[Job], files: DatasetFiles) -> list[str]:
    """Name each image by its file stem; stems that collide get a hash of the path in the source."""
    names = unique_names(
        [f"{split}/{kind.encode().hex()}/{raw.path.stem}" for raw, split, kind in jobs],
        [files.relative(raw.path) for raw, _, _ in jobs],
    )
    return [name.rpartition("/")[2] for name in names]
