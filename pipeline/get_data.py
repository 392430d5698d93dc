"""`metaldefect get-data`: put the real datasets into `data/raw`, downloaded or copied from a local folder.

The `.dvc` files in `data/raw` name repositories at pinned revisions. A download goes to `data/imports` and
moves to `data/raw` after its file counts are verified, so `data/raw` never holds half a dataset.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from metaldefect.errors import UserError
from metaldefect.ingest.raw_datasets import RAW_DATASETS, RawDataset, missing, take_local_copies, verify

RAW = Path("data/raw")
IMPORTS = Path("data/imports")


def import_files(dataset: RawDataset) -> list[Path]:
    """The `.dvc` files that fetch a dataset's parts, sorted."""
    imports = [path for path in sorted(RAW.glob("*.dvc")) if "deps" in read_import(path)]  # not `dvc add`'s
    return [path for path in imports if out_of(path).parts[0] == dataset.folder]


def out_of(import_file: Path) -> Path:
    """Where the files of an import end up, relative to `data/imports`."""
    out = Path(os.path.normpath(RAW / read_import(import_file)["outs"][0]["path"]))
    return out.relative_to(IMPORTS)


def read_import(path: Path) -> dict[str, Any]:
    """The parsed content of a `.dvc` file."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def fetch(datasets: Sequence[RawDataset]) -> None:
    """Fetch datasets through their `.dvc` files, verify them, and move them to `data/raw`.

    Raises:
        UserError: a repository cannot be reached, or does not contain what was published.
    """
    from dvc.repo import Repo

    parts = [(dataset, file) for dataset in datasets for file in import_files(dataset)]
    with Repo(".") as repo, tqdm(parts, desc="fetch", unit="import") as progress:
        for dataset, file in progress:
            progress.set_postfix_str(file.stem)
            repository = read_import(file)["deps"][0]["repo"]
            try:
                # only this command writes here, so what an interrupted download left may be deleted
                repo.pull(targets=[str(file)], force=True)
            except Exception as error:  # DVC, git and the network raise almost any exception type
                raise UserError(
                    f"{file}: cannot fetch {repository['url']} at {repository['rev'][:12]}: "
                    f"{first_line(error)}\nConnect to the network and try again, or take local copies: "
                    "make data FROM=<folder of tars or dataset folders>"
                ) from error
            if not (IMPORTS / out_of(file)).is_dir():
                raise UserError(f"{file}: {repository['url']} gave no {IMPORTS / out_of(file)}")
            if file == import_files(dataset)[-1]:
                place(dataset)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(":")


def place(dataset: RawDataset) -> None:
    """Move a fetched dataset to `data/raw` after verifying its file counts."""
    verify(dataset, IMPORTS / dataset.folder)
    shutil.move(IMPORTS / dataset.folder, RAW / dataset.folder)


def describe(dataset: RawDataset) -> list[str]:
    """What a verified dataset holds, and its terms of use: one line each."""
    counts = ", ".join(f"{count} {suffix}" for suffix, count in dataset.counts.items())
    return [
        f"{RAW / dataset.folder}: {counts}",
        f"  from {dataset.origin}",
        f"  licence: {dataset.licence}",
    ]


def get_data(source: Path | None) -> list[str]:
    """Fill `data/raw` in the current folder; download only the datasets that are missing.

    Args:
        source: folder of local copies; None downloads from the public repositories.

    Returns:
        Lines that describe what `data/raw` holds now.

    Raises:
        UserError: something is missing or wrong; the message says what to do about it.
    """
    if not any(RAW.glob("*.dvc")):
        raise UserError(f"{RAW} holds no .dvc files: run from the project's folder")
    if source is not None:
        taken, unknown = take_local_copies(source, RAW)
        lines = [line for dataset in taken for line in describe(dataset)]
        return lines + [f"left alone: {name} holds none of the datasets" for name in unknown]
    importable = [dataset for dataset in RAW_DATASETS if dataset.importable]
    wanted = missing(importable, RAW)
    for dataset in importable:
        if dataset not in wanted:
            verify(dataset, RAW / dataset.folder)
    fetch(wanted)
    lines = [line for dataset in importable for line in describe(dataset)]
    unhashed = [f.name for d in wanted for f in import_files(d) if "md5" not in read_import(f)["outs"][0]]
    if unhashed:
        lines.append(f"pinned by revision alone, without a hash of their own: {', '.join(unhashed)}")
    for dataset in missing([d for d in RAW_DATASETS if not d.importable], RAW):
        lines.append(
            f"not fetched: {RAW / dataset.folder} ({dataset.origin}) cannot be made again bit for bit; "
            "take a local copy with make data FROM=<folder>"
        )
    return lines
