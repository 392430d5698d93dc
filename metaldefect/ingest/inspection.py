"""The detector's dataset: normal images to learn from, defects to be tested on, in MVTec AD layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
from metaldefect.inspection.layout import CANVAS, GOOD, mask_path, write_scenes

# Shares of the normal images where the publisher has no split, and of train where a split is missing.
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2
VALIDATION_OF_TRAIN = 1 / 8
CANVASES_OF_TRAIN = 1 / 8
CANVAS_SCENES = 2  # defects to calibrate on and defects to test on need canvases of their own
COMPARED_SIDE = 128
SCENE_DIGITS = 16


@dataclass(frozen=True)
class InspectionCounts:
    """Images in the detector's dataset.

    Attributes:
        train: normal images to learn from.
        validation: normal images that thresholds are chosen on.
        canvas: normal images to insert defects in; 0 where the training normals show too few scenes.
        test: test images by type, `good` among them.
        empty_masks: defective images whose mask marks no pixel; they count for image scores only.
        scenes_across_splits: scenes of normal images that the publisher's own split cuts.
    """

    train: int
    validation: int
    canvas: int
    test: dict[str, int]
    empty_masks: list[str]
    scenes_across_splits: int


@dataclass(frozen=True)
class Fingerprinted:
    """An image with what its scene and its split depend on."""

    raw: RawSample
    fingerprint: Fingerprint
    content: str


def build_inspection(
    adapter: str, root: Path, output: Path, seed: int
) -> tuple[InspectionCounts, list[Rejected]]:
    """Write a dataset in `metaldefect.inspection.layout`'s layout, at its original resolution.

    Every defect goes to test. Where the publisher has no split, normal images are split 70/10/20; where
    there is no validation, one in eight scenes of train becomes it; and one in eight of what is left
    becomes `canvas`, the normal images to insert defects in. A scene (each magnetic tile was photographed
    under up to six exposures) stays in one split, and adding images moves no old one.

    With two scenes of training normals, one trains and one validates; canvases need four.

    Args:
        adapter: a name in `ADAPTERS`.
        root: the dataset's folder.
        output: folder to write into; made where it is missing.
        seed: decides the split.

    Returns:
        What was written, and the refused files.

    Raises:
        UserError: as `read_dataset`; or the training normals show one scene only, or a
            split would be empty.
    """
    samples, files = read_dataset(adapter, root)
    normals = take_fingerprints([raw for raw in samples if raw.is_normal], files, "read normal images")
    if not normals:
        raise UserError(f"{root} holds no normal images: the detector learns from nothing else")
    defects = take_fingerprints([raw for raw in samples if not raw.is_normal], files, "read defects")
    scenes = scenes_of(normals)
    splits, across = split_normals([item.raw.source_split for item in normals], scenes, seed)
    jobs = [(item.raw, split, GOOD) for item, split in zip(normals, splits, strict=True)]
    jobs += [(item.raw, "test", label_folder(item.raw.source_label)) for item in defects]
    scenes += scenes_of(defects)
    names = unique_stems(jobs, files)

    def write_one(index: int) -> RejectedFileError | bool:
        raw, split, kind = jobs[index]
        try:
            return write_inspection_image(raw, output, split, kind, names[index])
        except RejectedFileError as error:
            return error

    empty, written = [], {}
    for index, result in enumerate(map_threads(write_one, range(len(jobs)), "write inspection images")):
        raw, split, kind = jobs[index]
        if isinstance(result, RejectedFileError):
            files.reject(raw.path, str(result))
            continue
        written[f"{split}/{kind}/{names[index]}.png"] = scenes[index]
        if result:
            empty.append(f"{kind}/{names[index]}")
    write_scenes(output, written)
    counts = Counter(path.rpartition("/")[0] for path in written)
    test = {folder.removeprefix("test/"): n for folder, n in sorted(counts.items()) if folder[:5] == "test/"}
    if len(test) < 2 or GOOD not in test:
        raise UserError(f"{root}: the test split needs normal and defective images, found {test or 'none'}")
    found = InspectionCounts(
        train=counts[f"train/{GOOD}"],
        validation=counts[f"validation/{GOOD}"],
        canvas=counts[f"{CANVAS}/{GOOD}"],
        test=test,
        empty_masks=sorted(empty),
        scenes_across_splits=across,
    )
    return found, files.rejected


def take_fingerprints(
    samples: Sequence[RawSample], files: DatasetFiles, description: str
) -> list[Fingerprinted]:
    """Look at every image once; refused files are recorded."""

    def examine(raw: RawSample) -> Fingerprinted | RejectedFileError:
        try:
            square = resize(read_image(raw.path), COMPARED_SIDE)
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


def scenes_of(images: Sequence[Fingerprinted]) -> list[str]:
    """The scene of each image: the content key of the first image that shows it."""
    first = first_of_each(len(images), near_duplicate_pairs([item.fingerprint for item in images]))
    return [images[index].content[:SCENE_DIGITS] for index in first]


def split_normals(published: Sequence[str | None], scenes: Sequence[str], seed: int) -> tuple[list[str], int]:
    """The split of each normal image, and how many scenes the publisher's own split cuts.

    What is held out of the publisher's `train` shows scenes that no other split has. A published
    validation image whose scene is also in test goes to `train`: the threshold must not see the test.
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
    """In which splits each scene is."""
    found: dict[str, set[str]] = {}
    for scene, split in zip(scenes, splits, strict=True):
        found.setdefault(scene, set()).add(split)
    return found


def hold_out_validation(splits: Sequence[str], scenes: Sequence[str], seed: int) -> list[str]:
    """One in eight scenes of train, and at least one, become validation.

    Raises:
        UserError: train has fewer than two scenes, or none that test has not.
    """
    found = splits_by_scene(splits, scenes)
    places = {scene: position(scene, seed) for scene, held in found.items() if held == {"train"}}
    if sum("train" in held for held in found.values()) < 2:
        raise UserError(
            "the normal training images show fewer than two scenes: none can be held out for validation;"
            " add normal images of another piece"
        )
    if not places:
        raise UserError(
            "every scene of the normal training images is in another split too: none can be held out for"
            " validation; add normal images, or take the copies out of the test images"
        )
    chosen = lowest(places, VALIDATION_OF_TRAIN, 1)
    return [
        "validation" if split == "train" and scene in chosen else split
        for scene, split in zip(scenes, splits, strict=True)
    ]


def hold_out_canvases(splits: Sequence[str], scenes: Sequence[str], seed: int) -> list[str]:
    """One in eight scenes of train, and at least two, become canvases; none where two leave no training."""
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
    """The scenes whose place is below `share`, and the lowest `at_least` of them; the highest stays out."""
    ranked = sorted(places, key=lambda scene: places[scene])
    below = sum(place < share for place in places.values())
    return set(ranked[: max(at_least, min(below, len(ranked) - 1))])


def write_inspection_image(raw: RawSample, output: Path, split: str, kind: str, name: str) -> bool:
    """Write one image, and for a defect its mask; whether that mask is empty."""
    image = read_image(raw.path)
    if kind == GOOD:
        write_png(output / split / kind / f"{name}.png", image)
        return False
    mask = defect_mask(raw, image.shape)
    write_png(output / split / kind / f"{name}.png", image)
    write_png(mask_path(output, kind, name), mask)
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
