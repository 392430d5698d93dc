"""The published datasets: contents of a complete copy, licence, and safe import of local copies."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from metaldefect.artifacts import atomic_directory
from metaldefect.errors import UserError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class RawDataset:
    """A published dataset.

    Attributes:
        folder: its name under the data root.
        counts: number of files by suffix in a complete copy.
        licence: terms of use.
        origin: where it is published.
        importable: whether its public repository holds exactly the files that this project uses.
    """

    folder: str
    counts: dict[str, int]
    licence: str
    origin: str
    importable: bool = True


RAW_DATASETS = (
    RawDataset(
        "NEU-DET",
        {".jpg": 1800, ".xml": 1800},
        "no licence stated; its authors (K. Song, Y. Yan) publish it for research use",
        "github.com/siddhartamukherjee/NEU-DET-Steel-Surface-Defect-Detection",
    ),
    RawDataset(
        "SD-saliency-900",
        {".bmp": 900, ".png": 900},
        "no licence stated; cite G. Song, K. Song, Y. Yan, Optics and Lasers in Engineering, 2020",
        "github.com/SongGuorong/MCITF",
    ),
    RawDataset(
        "X-SDD",
        {".jpg": 1218, ".png": 142},
        "Apache-2.0; X. Feng, X. Gao, L. Luo, 2021",
        "github.com/Fighter20092392/X-SDD-A-New-benchmark",
    ),
    RawDataset(
        "Magnetic-tile-defect",
        {".jpg": 1344, ".png": 1344},
        "no licence; free to use, please cite Y. Huang, C. Qiu, K. Yuan, 2018",
        "github.com/abin24/Magnetic-tile-defect-datasets.",
    ),
    RawDataset(
        "imagenet_sample_256",
        {".jpg": 1000},
        "no licence stated; the terms of ImageNet apply (non-commercial research)",
        "github.com/EliSchwartz/imagenet-sample-images, cropped to 256x256 and encoded again",
        importable=False,
    ),
)


def verify(dataset: RawDataset, folder: Path) -> None:
    """Check that a copy holds as many files of each type as the published dataset.

    Raises:
        UserError: a number differs; the message names the folder and both numbers.
    """
    found = dict.fromkeys(dataset.counts, 0)
    for path in folder.rglob("*"):
        suffix = path.suffix.lower()
        if suffix in found and path.is_file():
            found[suffix] += 1
    wrong = [
        f"{found[suffix]} {suffix} files, expected {expected}"
        for suffix, expected in dataset.counts.items()
        if found[suffix] != expected
    ]
    if wrong:
        raise UserError(
            f"{folder} is no whole copy of {dataset.folder}: {'; '.join(wrong)}. Take another copy"
        )


def take_local_copies(source: Path, raw: Path) -> tuple[list[RawDataset], list[str]]:
    """Copy datasets from the tars and folders in `source` to `raw`, verifying each before it goes in place.

    Args:
        source: a dataset folder or tar, or a folder of these.
        raw: receives one folder per dataset, replacing any folder of that name.

    Returns:
        The datasets copied, and the names of entries of `source` that hold none.

    Raises:
        UserError: `source` is missing or holds no known dataset; a tar or folder is unsafe, broken or
            incomplete; or the disk is too small.
    """
    taken: list[RawDataset] = []
    unknown: list[str] = []
    for entry in candidates(source):
        with opened(entry, raw) as folders:
            found = [dataset for dataset in RAW_DATASETS if dataset.folder in folders]
            for dataset in found:
                if (raw / dataset.folder).is_symlink():
                    raise UserError(f"{raw / dataset.folder} is a link: remove it to put a copy there")
                with atomic_directory(raw / dataset.folder) as place:
                    copy_tree(folders[dataset.folder], place)
                    verify(dataset, place)
            taken += found
            if not found:
                unknown.append(entry.name)
    if not taken:
        names = ", ".join(dataset.folder for dataset in RAW_DATASETS)
        raise UserError(f"{source} holds neither a folder nor a tar of one of {names}")
    return taken, unknown


def candidates(source: Path) -> list[Path]:
    """`source` itself if it is a tar or a dataset's folder, else the tars and folders in it, sorted."""
    if not source.exists():
        raise UserError(f"{source} does not exist: give a folder of tars or dataset folders")
    known = {dataset.folder for dataset in RAW_DATASETS}
    if is_tar(source) or source.resolve().name in known:
        return [source]
    if not source.is_dir():
        raise UserError(f"{source} is neither a folder nor one of {', '.join(TAR_SUFFIXES)}")
    return [path for path in sorted(source.iterdir()) if is_tar(path) or path.is_dir()]


def is_tar(path: Path) -> bool:
    """Whether a path is a file with a tar's suffix."""
    return path.is_file() and path.name.lower().endswith(TAR_SUFFIXES)


@contextmanager
def opened(entry: Path, raw: Path) -> Iterator[dict[str, Path]]:
    """Yield folders by name: the entry itself, or the folders that its tar unpacks to."""
    if entry.is_dir():
        yield {entry.resolve().name: entry}
        return
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack.tmp-", dir=raw) as name:
        unpack(entry, Path(name))
        yield {path.name: path for path in sorted(Path(name).iterdir()) if path.is_dir()}


def unpack(tar_file: Path, target: Path) -> None:
    """Unpack an untrusted tar: no file lands outside `target`, and no link points outside it.

    Raises:
        UserError: a member would break that, the tar is broken, or the disk is too small.
    """
    try:
        with tarfile.open(tar_file) as tar:
            members = tar.getmembers()
            check_space(sum(member.size for member in members), target, tar_file)
            for member in tqdm(members, desc=f"unpack {tar_file.name}", unit="file"):
                tar.extract(member, target, filter="data")
    except tarfile.FilterError as error:
        raise UserError(f"{tar_file} is unsafe and was not taken: {error}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{tar_file} cannot be unpacked: {error}") from error


def check_space(needed: int, target: Path, tar_file: Path) -> None:
    """Raise `UserError` if a tar needs more space than the disk has."""
    free = shutil.disk_usage(target).free
    if needed > free:
        raise UserError(f"{tar_file} needs {needed} bytes on the disk of {target}, which has {free} free")


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files below `source`, following links; `UserError` if a link points outside it."""
    files = sorted(list_files(source))
    for path in tqdm(files, desc=f"copy {source.name}", unit="file"):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def list_files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder; `UserError` for special files and unsafe links."""
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path.is_symlink():
                check_link(path, root)
            if name in names:
                if not stat.S_ISREG(path.stat().st_mode):
                    raise UserError(f"{path} is neither a file nor a folder: remove it")
                yield path


def check_link(path: Path, root: Path) -> None:
    """Raise `UserError` if a link is broken, points outside the root, or points to a folder."""
    target = path.resolve()
    if not target.is_relative_to(root) or not target.is_file():
        raise UserError(f"{path} is a link to {target}: put the file itself there")


def missing(datasets: Sequence[RawDataset], raw: Path) -> list[RawDataset]:
    """The datasets that have no folder under `raw`."""
    return [dataset for dataset in datasets if not (raw / dataset.folder).is_dir()]
