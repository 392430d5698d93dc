"""Examine raw datasets: select images, map their labels, measure them and reject unusable files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.image_files import Levels
from metaldefect.images import resize
from metaldefect.ingest.adapters import DatasetFiles, RawSample, read_dataset
from metaldefect.ingest.groups import Fingerprint, fingerprint
from metaldefect.ingest.levels import find_levels
from metaldefect.ingest.parallel import map_threads
from metaldefect.ingest.reading import read_image, read_known_mask, with_usable_boxes
from metaldefect.ingest.shortcut import GreyStatistics, grey_statistics
from metaldefect.ingest.windows import Window, is_large, windows_around


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset to merge.

    Attributes:
        adapter: a name in `ADAPTERS`.
        root: the dataset's folder.
        labels: maps the dataset's labels to this project's classes; None: the labels are the classes'
            names, and good images are left to the detector's dataset unless their label is a class.
        splits: publisher's splits to use; None uses all images.
        ignore: labels whose images are skipped.
        name: its name in the sample table; None uses the adapter's.
        levels: how images with more than 8 bits are read; None: by their bit depth (see `find_levels`).
        scenes: which files show one part (see `scene_links`); None: those that look alike.
    """

    adapter: str
    root: Path
    labels: dict[str, str] | None = None
    splits: Sequence[str] | None = None
    ignore: Sequence[str] = ()
    name: str | None = None
    levels: Levels | None = None
    scenes: str | None = None

    @property
    def source(self) -> str:
        """The dataset's name in the sample table."""
        return self.name or self.adapter


@dataclass(frozen=True)
class Examined:
    """A raw image with its class, hashes and statistics; its boxes have the names of classes.

    `shape` is the source's (height, width), upright; `levels` are its dataset's. `windows` are cut out of a
    photograph around its small defects; without any it is used as a whole.
    """

    raw: RawSample
    label: str
    source_path: str
    source_sha256: str
    shape: tuple[int, ...]
    fingerprint: Fingerprint
    statistics: GreyStatistics
    levels: Levels | None = None
    windows: tuple[Window, ...] = ()


def examine_dataset(
    spec: DatasetSpec, classes: Sequence[str], image_size: int
) -> tuple[list[Examined], DatasetFiles]:
    """Read a dataset's records and examine every selected image.

    Args:
        spec: the dataset.
        classes: the allowed labels.
        image_size: side in pixels that images are resized to.

    Returns:
        The images, in the adapter's order, and the dataset's files: those rejected, and notes.

    Raises:
        UserError: `read_dataset`, `label_map` or `choose` raises it.
    """
    samples, files = read_dataset(spec.adapter, spec.root, spec.source)
    labels = label_map(samples, spec, classes)
    chosen = choose(samples, spec, labels)
    levels = spec.levels or find_levels([raw.path for raw in samples])

    def examine(raw: RawSample) -> Examined | RejectedFileError:
        try:
            named = with_class_names(raw, labels)
            return examine_image(named, labels[raw.source_label], files, image_size, levels)
        except RejectedFileError as error:
            return error

    examined = []
    for raw, result in zip(chosen, map_threads(examine, chosen, f"read {spec.source}"), strict=True):
        if isinstance(result, Examined):
            examined.append(result)
        else:
            files.reject(raw.path, str(result))
    return one_scale(examined, image_size), files


def one_scale(examined: Sequence[Examined], image_size: int) -> list[Examined]:
    """Use small photographs as a whole where this is best for most of their class.

    A few enlarged windows among whole photographs would show the same metal at two scales.
    """
    cut = Counter(item.label for item in examined if item.windows)
    every = Counter(item.label for item in examined)
    return [
        item
        if 2 * cut[item.label] > every[item.label] or is_large(item.shape, image_size)
        else replace(item, windows=())
        for item in examined
    ]


def examine_image(
    raw: RawSample, label: str, files: DatasetFiles, image_size: int, levels: Levels | None
) -> Examined:
    """Decode one image and its mask strictly, and measure the image.

    Raises:
        RejectedFileError: the image or its mask is unusable.
    """
    original = read_image(raw, levels)
    shape = (original.shape[0], original.shape[1])
    mask = read_known_mask(raw, shape)
    raw = with_usable_boxes(raw, files, shape)
    image = resize(original, image_size)
    return Examined(
        raw=raw,
        label=label,
        source_path=files.relative(raw.path),
        source_sha256=hashlib.sha256(raw.path.read_bytes()).hexdigest(),
        shape=shape,
        fingerprint=fingerprint(image),
        statistics=grey_statistics(image),
        levels=levels,
        windows=windows_around(mask, raw.boxes, shape, image_size),
    )


def with_class_names(raw: RawSample, labels: Mapping[str, str]) -> RawSample:
    """The sample with the classes of its boxes instead of the dataset's labels; those without one stay."""
    boxes = tuple(replace(box, label=labels.get(box.label, box.label)) for box in raw.boxes)
    return replace(raw, boxes=boxes)


def label_map(samples: Sequence[RawSample], spec: DatasetSpec, classes: Sequence[str]) -> dict[str, str]:
    """The dataset's labels to use, each with its class.

    Raises:
        UserError: a label is neither mapped nor ignored, maps to an unknown class or has no images.
    """
    found = sorted({raw.source_label for raw in samples})
    labels = spec.labels
    if labels is None:
        labels = {label: label for label in found if label in classes and label not in spec.ignore}
    defective = {raw.source_label for raw in samples if not raw.is_normal}
    left_out = {*spec.ignore, *(set(found) - defective if spec.labels is None else ())}
    unknown = [label for label in found if label not in labels and label not in left_out]
    if unknown:
        raise UserError(
            f"{spec.root}: label(s) {quoted(unknown)} are neither "
            + ("classes" if spec.labels is None else "mapped under `labels`")
            + f" nor listed under `ignore` of the dataset {spec.source!r}; labels found: {quoted(found)}"
        )
    strange = sorted(set(labels.values()) - set(classes))
    if strange:
        raise UserError(
            f"dataset {spec.source!r} maps labels to {quoted(strange)}, which is not among the classes: "
            f"{quoted(classes)}"
        )
    absent = sorted(set(labels) - set(found))
    if absent:
        raise UserError(
            f"{spec.root}: the dataset {spec.source!r} has no image labelled {quoted(absent)}, "
            f"which `labels` maps; labels found: {quoted(found)}"
        )
    return labels


def choose(samples: Sequence[RawSample], spec: DatasetSpec, labels: Mapping[str, str]) -> list[RawSample]:
    """Select the samples with mapped labels from the splits of `spec`.

    Raises:
        UserError: the dataset lacks a split.
    """
    check_splits(samples, spec)
    return [
        raw
        for raw in samples
        if raw.source_label in labels and (spec.splits is None or raw.source_split in spec.splits)
    ]


def check_splits(samples: Sequence[RawSample], spec: DatasetSpec) -> None:
    """Raise `UserError` if `spec` names a split that the dataset lacks."""
    existing = sorted({raw.source_split for raw in samples if raw.source_split})
    for split in spec.splits or ():
        if split not in existing:
            raise UserError(
                f"{spec.root}: the dataset {spec.source!r} has no split {split!r}; "
                f"splits found: {quoted(existing) or 'none, so leave `splits` out'}"
            )


def quoted(names: Sequence[str]) -> str:
    """Format names for an error message."""
    return ", ".join(repr(name) for name in names)
