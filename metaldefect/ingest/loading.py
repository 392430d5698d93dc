"""Rows and images of a sample table: the loaders through which training and evaluation see the data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.errors import UserError
from metaldefect.hardware import workers
from metaldefect.images import U8, read_grey
from metaldefect.ingest.samples import TABLE_NAME


def training_rows(folder: Path) -> pd.DataFrame:
    """The sample table of a folder from which something is about to learn.

    Every training reads its rows here, so a row of another split stops the training instead of
    teaching it the images that it is measured on.

    Raises:
        UserError: the folder holds no sample table, the table has no rows, or a row is not of the train
            split; the message names some.
    """
    table = rows_of(folder)
    if table.empty:
        raise UserError(f"{folder / TABLE_NAME} has no rows to learn from")
    foreign = table[table["split"] != "train"]
    if len(foreign):
        examples = ", ".join(f"{row.path} ({row.split})" for row in foreign.head(3).itertuples())
        raise UserError(
            f"{folder / TABLE_NAME}: {len(foreign)} of {len(table)} rows are not of the train split, "
            f"such as {examples}; training reads the train split only"
        )
    return table


def held_out_rows(folder: Path, split: str, limit: int | None = None) -> pd.DataFrame:
    """Rows of `validation` or `test`, always the same ones; with a limit spread evenly over the classes.

    Raises:
        UserError: the folder holds no sample table, or the split has no rows.
        ValueError: `split` is not a held-out one.
    """
    table = rows_of(folder)
    table = table[in_held_out(table, split, folder)].reset_index(drop=True)
    return table if limit is None else spread_over_classes(table, limit)


def split_rows(folder: Path, split: str) -> pd.DataFrame:
    """Rows of one split, `train` among them, to measure with.

    Raises:
        UserError: the folder holds no sample table, or the split has no rows.
    """
    table = rows_of(folder)
    table = table[table["split"] == split].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{folder / TABLE_NAME} has no row in the {split} split")
    return table


def in_held_out(table: pd.DataFrame, split: str, folder: Path) -> NDArray[np.bool_]:
    """Which rows of a folder's table are of a held-out split.

    Raises:
        ValueError: `split` is not a held-out one.
        UserError: it has no rows.
    """
    if split not in ("validation", "test"):
        raise ValueError(f"{split!r} is not a held-out split: expected validation or test")
    chosen = (table["split"] == split).to_numpy()
    if not chosen.any():
        raise UserError(f"{folder / TABLE_NAME} has no row in the {split} split")
    return chosen


def rows_of(folder: Path) -> pd.DataFrame:
    """The sample table of a folder, or a missing file's error that names it."""
    path = folder / TABLE_NAME
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the stage that writes it")
    return pd.read_parquet(path)


def spread_over_classes(table: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Up to `limit` rows, taken from each class in turn and within a class from each group in turn.

    A table is often sorted by label, and a photograph often has near-duplicates: the first rows would be
    one class, and few photographs of it. The order within a class follows the images' hashes.
    """
    ordered = table.sort_values(["sha256", "path"])
    repeat = ordered.groupby(["label", "group"]).cumcount()
    ordered = ordered.assign(repeat=repeat).sort_values("repeat", kind="stable")
    turn = ordered.groupby("label").cumcount()
    ordered = ordered.assign(turn=turn).sort_values(["turn", "label"], kind="stable")
    return ordered.head(limit).drop(columns=["repeat", "turn"]).reset_index(drop=True)


def load_images(root: Path, table: pd.DataFrame, size: int, what: str) -> U8:
    """All images of a table as grey `uint8 [N, size, size]`, in the table's order."""
    images = np.empty((len(table), size, size), np.uint8)
    files = [root / path for path in table["path"]]

    def load(index: int) -> None:
        images[index] = read_grey(files[index], size)

    with ThreadPoolExecutor(workers()) as pool:
        for _ in tqdm(pool.map(load, range(len(files))), total=len(files), desc=what, unit="image"):
            pass
    return images
