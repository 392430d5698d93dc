"""The detector's dataset: normal images to learn from, defects to be tested on, in MVTec AD layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from metaldefect.artifacts import sha256_file
from metaldefect.errors import UserError
from metaldefect.images import U8, resize, write_png
from metaldefect.ingest.adapters import (
    DatasetFiles,
    RawSample,
    Rejected,
    RejectedFileError,
    RunLengths,
    read_dataset,
)
from metaldefect.ingest.adapters.files import draw_runs, read_image, read_mask
from metaldefect.ingest.groups import Fingerprint, fingerprint, first_of_each, near_duplicate_pairs
from metaldefect.ingest.parallel import map_threads
from metaldefect.ingest.splits import assign_splits, position

GOOD = "good"
# Shares of the normal images where the publisher has no split, and of train where there is no validation.
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2
VALIDATION_OF_TRAIN = 1 / 8
COMPARED_SIDE = 128


@dataclass(frozen=True)
class InspectionCounts:
    """Images in the detector's dataset.

    Attributes:
        train: normal images to learn from.
        validation: normal images that thresholds are chosen on.
        test: test images by type, `good` among them.
        empty_masks: defective images whose mask marks no pixel; they count for image scores only.
        scenes_across_splits: scenes of normal images that the publisher's own split cuts.
    """

    train: int
    validation: int
    test: dict[str, int]
    empty_masks: list[str]
    scenes_across_splits: int


@dataclass(frozen=True)
class Normal:
    """A normal image with what its split depends on."""

    raw: RawSample
    fingerprint: Fingerprint
    content: str


def build_inspection(
    adapter: str, root: Path, output: Path, seed: int
) -> tuple[InspectionCounts, list[Rejected]]:
    """Write a dataset in MVTec AD layout with a validation split, at its original resolution.

    `train/good`, `validation/good`, `test/good`, `test/<type>`, `ground_truth/<type>/<stem>_mask.png`
    ({0, 255}). Every defect goes to test. Where the publisher has no split, normal images are split
    70/10/20; where there is no validation, one in eight of train becomes it. A scene (each magnetic
    tile was photographed under up to six exposures) stays in one split, and adding images moves no
    old one.

    Args:
        adapter: a name in `ADAPTERS`.
        root: the dataset's folder.
        output: folder to write into; made where it is missing.
        seed: decides the split.

    Returns:
        What was written, and the refused files.

    Raises:
        UserError: as `read_dataset`; or a defective image has no mask, or a split
            would be empty.
    """
    samples, files = read_dataset(adapter, root)
    normals = examine_normals([raw for raw in samples if raw.is_normal], files)
    if not normals:
        raise UserError(f"{root} holds no normal images: the detector learns from nothing else")
    splits, across = split_normals(normals, seed)
    jobs = [(normal.raw, split, GOOD) for normal, split in zip(normals, splits, strict=True)]
    jobs += [(raw, "test", label_folder(raw.source_label)) for raw in samples if not raw.is_normal]
    names = unique_stems(jobs, files)
    empty = []

    def write_one(index: int) -> RejectedFileError | bool:
        raw, split, kind = jobs[index]
        try:
            return write_inspection_image(raw, output, split, kind, names[index])
        except RejectedFileError as error:
            return error

    written: Counter[tuple[str, str]] = Counter()
    for index, result in enumerate(map_threads(write_one, range(len(jobs)), "write inspection images")):
        raw, split, kind = jobs[index]
        if isinstance(result, RejectedFileError):
            files.reject(raw.path, str(result))
            continue
        written[split, kind] += 1
        if result:
            empty.append(f"{kind}/{names[index]}")
    test = {kind: count for (split, kind), count in sorted(written.items()) if split == "test"}
    if len(test) < 2:
        raise UserError(f"{root}: the test split needs normal and defective images, found {test or 'none'}")
    counts = InspectionCounts(
        train=written["train", GOOD],
        validation=written["validation", GOOD],
        test=test,
        empty_masks=sorted(empty),
        scenes_across_splits=across,
    )
    return counts, files.rejected


def examine_normals(samples: Sequence[RawSample], files: DatasetFiles) -> list[Normal]:
    """Look at every normal image once; refused files are recorded."""

    def examine(raw: RawSample) -> Normal | RejectedFileError:
        try:
            square = resize(read_image(raw.path), COMPARED_SIDE)
        except RejectedFileError as error:
            return error
        return Normal(raw, fingerprint(square), sha256_file(raw.path))

    normals = []
    for raw, result in zip(samples, map_threads(examine, samples, "read normal images"), strict=True):
        if isinstance(result, Normal):
            normals.append(result)
        else:
            files.reject(raw.path, str(result))
    return normals


def split_normals(normals: Sequence[Normal], seed: int) -> tuple[list[str], int]:
    """The split of each normal image, and how many scenes the publisher's own split cuts."""
    first = first_of_each(len(normals), near_duplicate_pairs([item.fingerprint for item in normals]))
    scenes = [normals[index].content for index in first]
    published = [item.raw.source_split for item in normals]
    if set(published) == {None}:
        splits, _ = assign_splits(scenes, [GOOD] * len(normals), seed, VALIDATION_SHARE, TEST_SHARE)
        return splits, 0
    splits = [split or "train" for split in published]
    if "validation" not in splits:
        splits = hold_out_validation(splits, scenes, seed)
    splits_of_scene: dict[str, set[str]] = {}
    for scene, split in zip(scenes, splits, strict=True):
        splits_of_scene.setdefault(scene, set()).add(split)
    return splits, sum(len(found) > 1 for found in splits_of_scene.values())


def hold_out_validation(splits: Sequence[str], scenes: Sequence[str], seed: int) -> list[str]:
    """One in eight scenes of train, and at least one, become validation."""
    places = {
        scene: position(scene, seed) for scene, split in zip(scenes, splits, strict=True) if split == "train"
    }
    if len(places) < 2:
        raise UserError(
            "the normal training images show fewer than two scenes: none can be held out for validation"
        )
    bound = max(VALIDATION_OF_TRAIN, min(places.values()))
    return [
        "validation" if split == "train" and places[scene] <= bound else split
        for scene, split in zip(scenes, splits, strict=True)
    ]


def write_inspection_image(raw: RawSample, output: Path, split: str, kind: str, name: str) -> bool:
    """Write one image, and for a defect its mask; whether that mask is empty."""
    image = read_image(raw.path)
    if kind == GOOD:
        write_png(output / split / kind / f"{name}.png", image)
        return False
    mask = defect_mask(raw, image.shape)
    write_png(output / split / kind / f"{name}.png", image)
    write_png(output / "ground_truth" / kind / f"{name}_mask.png", mask)
    return not mask.any()


def defect_mask(raw: RawSample, size: tuple[int, ...]) -> U8:
    """The mask of a defective image as `uint8 [H, W]` of {0, 255}."""
    height, width = size
    if isinstance(raw.mask, RunLengths):
        return draw_runs(raw.mask, (height, width))
    if raw.mask is None:
        raise RejectedFileError("defective image without a mask, so that its pixels cannot be scored")
    try:
        return read_mask(raw.mask, (height, width)).astype(np.uint8)
    except RejectedFileError as error:
        raise RejectedFileError(f"its mask {raw.mask.name}: {error}") from error


def label_folder(label: str) -> str:
    """A label as a folder name in MVTec's manner."""
    return label.strip().replace(" ", "_").replace("/", "_").lower()


def unique_stems(jobs: Sequence[tuple[RawSample, str, str]], files: DatasetFiles) -> list[str]:
    """File stems, with the publisher's split before them where two images would collide."""
    plain = [(split, kind, raw.path.stem.lower()) for raw, split, kind in jobs]
    counts = Counter(plain)
    stems = []
    for (raw, _, _), key in zip(jobs, plain, strict=True):
        parent = PurePosixPath(files.relative(raw.path)).parent.as_posix().replace("/", "_")
        stems.append(raw.path.stem if counts[key] == 1 else f"{parent}_{raw.path.stem}".replace(" ", "_"))
    return stems
