"""What this project sees in a folder: layout, classes, sizes, depths, masks, duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from metaldefect.errors import RejectedFileError, printable
from metaldefect.image_files import (
    DEEP_MODES,
    FEW_LEVELS,
    U8,
    Levels,
    LevelsSetting,
    colours_of,
    defect_pixels,
    distinct_levels,
    has_deep_channels,
    read_mask_levels,
    read_original,
    suffix_is_jpeg,
)
from metaldefect.images import Channels, as_channels, is_coloured, resize
from metaldefect.ingest.adapters import DatasetFiles, RawSample, Rejected, read_dataset, recognise
from metaldefect.ingest.fixed_camera import judge_pairs
from metaldefect.ingest.groups import Fingerprint, fingerprint, first_of_each, near_duplicate_pairs
from metaldefect.ingest.levels import find_levels
from metaldefect.ingest.parallel import map_threads
from metaldefect.ingest.reading import check_good, read_image, read_known_mask, with_usable_boxes
from metaldefect.ingest.scenes import named_links
from metaldefect.ingest.thumbnails import thumbnails_of

COMPARED_SIDE = 128
COLOUR = "colour"


@dataclass(frozen=True)
class Seen:
    """One image that can be read."""

    raw: RawSample
    size: tuple[int, int]  # width and height, upright
    kind: str  # format, bits and channels
    coloured: bool  # whether colours can be seen in it
    marked: bool | None  # whether its mask marks a defect; None: there is no mask
    mask_levels: str | None
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Overview:
    """Everything that `metaldefect check` reports.

    Attributes:
        root: the folder.
        adapter: the layout that was recognised.
        classes: images by label, in natural order.
        defects: labels of images that show a defect.
        masks: images with a mask, by label.
        empty_masks: images whose mask marks nothing, by label.
        splits: images by published split; empty if there is none.
        sizes: images by width and height.
        kinds: images by format, bits and channels.
        coloured: images in which colours can be seen; many colour files show grey metal.
        levels: how images with more than 8 bits are read; None if there are none.
        setting: the levels that the user states; None: they are found.
        unread: lowest and highest level of images of 32 bits, which need a setting; None: there are none.
        mask_levels: masks by the levels found in them: all of few, else the range.
        groups: near-duplicate groups of several photographs, and images in them.
        scenes: number of scenes: as the dataset names them, else as similarity shows them.
        rejected: files that are refused.
        notes: what else the user should know.
        thumbnails: first images of each label, `uint8 [h, w, 3]`, with defects outlined.
    """

    root: Path
    adapter: str
    classes: Mapping[str, int]
    defects: Sequence[str]
    masks: Mapping[str, int]
    empty_masks: Mapping[str, int]
    splits: Mapping[str, int]
    sizes: Mapping[tuple[int, int], int]
    kinds: Mapping[str, int]
    coloured: int
    levels: Levels | None
    setting: LevelsSetting | None
    unread: tuple[float, float] | None
    mask_levels: Mapping[str, int]
    groups: tuple[int, int]
    scenes: int
    rejected: Sequence[Rejected]
    notes: Sequence[str]
    thumbnails: Mapping[str, Sequence[U8]]

    @property
    def channels(self) -> Channels:
        """How to see these images: 3 if at least half of them are coloured, else 1."""
        return 3 if 2 * self.coloured >= sum(self.classes.values()) > 0 else 1


def look_at(root: Path, adapter: str | None = None, setting: LevelsSetting | None = None) -> Overview:
    """Read a whole dataset and say what it holds.

    Args:
        root: the dataset's folder.
        adapter: its layout; None recognises it.
        setting: how images with more than 8 bits are read; None: by their bit depth.

    Raises:
        UserError: the setting is impossible, or `recognise` or `read_dataset` raises it.
    """
    stated = Levels.of_setting(setting)
    adapter = adapter or recognise(root)
    samples, files = read_dataset(adapter, root)
    levels = stated or find_levels([raw.path for raw in samples])

    def look(raw: RawSample) -> Seen | RejectedFileError:
        try:
            return look_at_image(raw, files, levels)
        except RejectedFileError as error:
            return error

    seen: list[Seen] = []
    for raw, result in zip(samples, map_threads(look, samples, "look at images"), strict=True):
        if isinstance(result, Seen):
            seen.append(result)
        else:
            files.reject(raw.path, str(result))
    labels = [item.raw.source_label for item in seen]
    prints = [item.fingerprint for item in seen]
    pairs, notes = judge_pairs(prints, labels, near_duplicate_pairs(prints))
    groups = np.bincount(first_of_each(len(seen), [pair for pair in pairs if pair.same_photograph]))
    several = groups[groups > 1]
    raws = [item.raw for item in seen]
    named = named_links(None, raws, [files.relative(raw.path) for raw in raws])
    scenes = first_of_each(len(seen), pairs if named is None else named)
    return Overview(
        root=root,
        adapter=adapter,
        classes=Counter(labels),
        defects=list(dict.fromkeys(item.raw.source_label for item in seen if not item.raw.is_normal)),
        masks=Counter(item.raw.source_label for item in seen if item.marked is not None),
        empty_masks=Counter(item.raw.source_label for item in seen if item.marked is False),
        splits=Counter(item.raw.source_split for item in seen if item.raw.source_split),
        sizes=Counter(item.size for item in seen),
        kinds=Counter(item.kind for item in seen),
        coloured=sum(item.coloured for item in seen),
        levels=levels,
        setting=setting,
        unread=None if stated else range_of(samples),
        mask_levels=Counter(item.mask_levels for item in seen if item.mask_levels is not None),
        groups=(len(several), int(several.sum())),
        scenes=len(set(scenes.tolist())),
        rejected=files.rejected,
        notes=[*(f"{note.path}: {note.reason}" for note in files.notes), *notes],
        thumbnails=thumbnails_of(raws, levels),
    )


def look_at_image(raw: RawSample, files: DatasetFiles, levels: Levels | None) -> Seen:
    """Read an image and its mask.

    Raises:
        RejectedFileError: one of them is unusable, or they contradict each other.
    """
    image = read_image(raw, levels, colour=has_colours(raw.path))
    grey, size = as_channels(image, 1), (image.shape[0], image.shape[1])
    raw = with_usable_boxes(raw, files, size)
    marked, found = look_at_mask(raw, size)
    check_good(raw, bool(marked))
    compared = fingerprint(resize(grey, COMPARED_SIDE))
    coloured = image.ndim == 3 and is_coloured(image)
    return Seen(raw, (size[1], size[0]), kind_of(raw.path), coloured, marked, found, compared)


def look_at_mask(raw: RawSample, size: tuple[int, int]) -> tuple[bool | None, str | None]:
    """Whether an image's mask marks a defect, None if there is no mask; and the levels in a mask file.

    Raises:
        RejectedFileError: the mask is unusable.
    """
    if not isinstance(raw.mask, Path):
        mask = read_known_mask(raw, size)
        return (None if mask is None else bool(mask.any())), None
    try:
        coded = read_mask_levels(raw.mask, size, raw.path)
        marked = defect_pixels(coded, lossy=suffix_is_jpeg(raw.mask))
    except RejectedFileError as error:
        raise RejectedFileError(f"its mask {printable(raw.mask.name)}: {error}") from error
    values = distinct_levels(coded)
    few = len(values) <= FEW_LEVELS
    found = "/".join(f"{value:g}" for value in values) if few else f"{values[0]:g} to {values[-1]:g}"
    return bool(marked.any()), found


def range_of(samples: Sequence[RawSample]) -> tuple[float, float] | None:
    """The lowest and the highest level of all readable images of 32 bits, which have no usual range."""
    found = [item for raw in samples if (item := range_of_image(raw.path)) is not None]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def range_of_image(path: Path) -> tuple[float, float] | None:
    """The lowest and the highest level of an image of 32 bits; None for others and unreadable ones."""
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            if bits_of(image) != 32:
                return None
        levels = colours_of(read_original(path))
    except Exception:  # reading the file refuses it, with the reason
        return None
    low, high = float(levels.min()), float(levels.max())
    return (low, high) if np.isfinite([low, high]).all() else None


def has_colours(path: Path) -> bool:
    """Whether an image file has channels of colours, by its header; False if it cannot be read."""
    try:
        return kind_of(path).endswith(COLOUR)
    except Exception:  # reading the file refuses it, with the reason
        return False


def bits_of(image: Image.Image) -> int:
    """Bits per channel, from the header."""
    if image.mode.startswith("I;16") or has_deep_channels(image):
        return 16
    return 32 if image.mode in DEEP_MODES else 8


def kind_of(path: Path) -> str:
    """Format, bits and channels of an image file, from its header: `PNG, 8 bits, grey`."""
    with Image.open(path) as image:
        channels = COLOUR if image.mode in ("RGB", "RGBA", "P", "PA") else "grey"
        return f"{image.format}, {bits_of(image)} bits, {channels}"
