"""First look at raw datasets: which images are taken, what they show, which files are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metaldefect.errors import UserError
from metaldefect.images import resize
from metaldefect.ingest.adapters import DatasetFiles, RawSample, Rejected, RejectedFileError, read_dataset
from metaldefect.ingest.adapters.files import read_image, read_mask
from metaldefect.ingest.groups import Fingerprint, fingerprint
from metaldefect.ingest.parallel import map_threads
from metaldefect.ingest.shortcut import GreyStatistics, grey_statistics


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset to merge: where it lies, which of its splits are taken, what its labels mean here."""

    adapter: str
    root: Path
    labels: dict[str, str]
    splits: Sequence[str] | None = None
    ignore: Sequence[str] = ()
    name: str | None = None

    @property
    def source(self) -> str:
        """Its name in the sample table."""
        return self.name or self.adapter


@dataclass(frozen=True)
class Examined:
    """A raw image after the first look at its pixels; `shape` is (height, width) of the source."""

    raw: RawSample
    label: str
    source_path: str
    source_sha256: str
    shape: tuple[int, ...]
    fingerprint: Fingerprint
    statistics: GreyStatistics


def examine_dataset(
    spec: DatasetSpec, classes: Sequence[str], image_size: int
) -> tuple[list[Examined], list[Rejected]]:
    """Read a dataset's records and look at every wanted image once.

    Args:
        spec: the dataset.
        classes: the labels that may occur.
        image_size: side in pixels that images are resized to.

    Returns:
        The images, in the adapter's order, and the refused files.

    Raises:
        UserError: as `read_dataset` and `choose`.
    """
    samples, files = read_dataset(spec.adapter, spec.root, spec.source)
    chosen = choose(samples, spec, classes)

    def examine(raw: RawSample) -> Examined | RejectedFileError:
        try:
            return examine_image(raw, spec, files, image_size)
        except RejectedFileError as error:
            return error

    examined = []
    for raw, result in zip(chosen, map_threads(examine, chosen, f"read {spec.source}"), strict=True):
        if isinstance(result, Examined):
            examined.append(result)
        else:
            files.reject(raw.path, str(result))
    return examined, files.rejected


def examine_image(raw: RawSample, spec: DatasetSpec, files: DatasetFiles, image_size: int) -> Examined:
    """Decode one image and its mask strictly.

    Raises:
        RejectedFileError: the image, or its mask, may not be used.
    """
    original = read_image(raw.path)
    if isinstance(raw.mask, Path):
        try:
            read_mask(raw.mask, original.shape)
        except RejectedFileError as error:
            raise RejectedFileError(f"its mask {files.relative(raw.mask)}: {error}") from error
    image = resize(original, image_size)
    return Examined(
        raw=raw,
        label=spec.labels[raw.source_label],
        source_path=files.relative(raw.path),
        source_sha256=hashlib.sha256(raw.path.read_bytes()).hexdigest(),
        shape=original.shape,
        fingerprint=fingerprint(image),
        statistics=grey_statistics(image),
    )


def choose(samples: Sequence[RawSample], spec: DatasetSpec, classes: Sequence[str]) -> list[RawSample]:
    """The samples of the wanted splits whose labels are mapped.

    Raises:
        UserError: a label neither mapped nor ignored, a mapping to an unknown class, or a split that
            the dataset does not have.
    """
    found = sorted({raw.source_label for raw in samples})
    unknown = [label for label in found if label not in spec.labels and label not in spec.ignore]
    if unknown:
        raise UserError(
            f"{spec.root}: label(s) {quoted(unknown)} are neither mapped under `labels` nor listed under "
            f"`ignore` of the dataset {spec.source!r}; labels found: {quoted(found)}"
        )
    strange = sorted(set(spec.labels.values()) - set(classes))
    if strange:
        raise UserError(
            f"dataset {spec.source!r} maps labels to {quoted(strange)}, which is not among the classes: "
            f"{quoted(classes)}"
        )
    absent = sorted(set(spec.labels) - set(found))
    if absent:
        raise UserError(
            f"{spec.root}: the dataset {spec.source!r} has no image labelled {quoted(absent)}, "
            f"which `labels` maps; labels found: {quoted(found)}"
        )
    check_splits(samples, spec)
    return [
        raw
        for raw in samples
        if raw.source_label in spec.labels and (spec.splits is None or raw.source_split in spec.splits)
    ]


def check_splits(samples: Sequence[RawSample], spec: DatasetSpec) -> None:
    """Refuse a split that the dataset does not have."""
    existing = sorted({raw.source_split for raw in samples if raw.source_split})
    for split in spec.splits or ():
        if split not in existing:
            raise UserError(
                f"{spec.root}: the dataset {spec.source!r} has no split {split!r}; "
                f"splits found: {quoted(existing) or 'none, so leave `splits` out'}"
            )


def quoted(names: Sequence[str]) -> str:
    """Names for an error message."""
    return ", ".join(repr(name) for name in names)
