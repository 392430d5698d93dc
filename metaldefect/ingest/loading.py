"""Load rows and images of a sample table, for training and evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.errors import UserError
from metaldefect.hardware import workers
from metaldefect.images import U8, Channels, read_image
from metaldefect.ingest.samples import TABLE_NAME


def training_rows(folder: Path) -> pd.DataFrame:
    """Load a folder's sample table for training, and check that it holds only the train split.

    Every training reads its rows here, so no model can train on images that later measure it.

    Raises:
        UserError: the folder holds no sample table, the table is empty, or rows belong to another split; the
            message names some.
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
    """Load rows of `validation` or `test`; a `limit` picks rows evenly over classes, always the same ones.

    Raises:
        UserError: the folder holds no sample table, or the split has no rows.
        ValueError: `split` is neither `validation` nor `test`.
    """
    table = rows_of(folder)
    table = table[in_held_out(table, split, folder)].reset_index(drop=True)
    return table if limit is None else spread_over_classes(table, limit)


def split_rows(folder: Path, split: str) -> pd.DataFrame:
    """Load the rows of any one split, including `train`, for measurements.

    Raises:
        UserError: the folder holds no sample table, or the split has no rows.
    """
    table = rows_of(folder)
    table = table[table["split"] == split].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{folder / TABLE_NAME} has no row in the {split} split")
    return table


def in_held_out(table: pd.DataFrame, split: str, folder: Path) -> NDArray[np.bool_]:
    """Which rows of a folder's table belong to a held-out split, `bool [N]`.

    Raises:
        ValueError: `split` is neither `validation` nor `test`.
        UserError: the split has no rows.
    """
    if split not in ("validation", "test"):
        raise ValueError(f"{split!r} is not a held-out split: expected validation or test")
    chosen = (table["split"] == split).to_numpy()
    if not chosen.any():
        raise UserError(f"{folder / TABLE_NAME} has no row in the {split} split")
    return chosen


def rows_of(folder: Path) -> pd.DataFrame:
    """Load a folder's sample table.

    Raises:
        UserError: the folder holds none.
    """
    path = folder / TABLE_NAME
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the stage that writes it")
    return pd.read_parquet(path)


def spread_over_classes(table: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Pick up to `limit` rows, alternating between classes, and within a class between groups.

    Tables are often sorted by label and contain near-duplicates, so their first rows would show few
    photographs of one class. Within a class, rows are ordered by the images' hashes.
    """
    ordered = table.sort_values(["sha256", "path"])
    repeat = ordered.groupby(["label", "group"]).cumcount()
    ordered = ordered.assign(repeat=repeat).sort_values("repeat", kind="stable")
    turn = ordered.groupby("label").cumcount()
    ordered = ordered.assign(turn=turn).sort_values(["turn", "label"], kind="stable")
    return ordered.head(limit).drop(columns=["repeat", "turn"]).reset_index(drop=True)


def load_images(root: Path, table: pd.DataFrame, size: int, what: str, channels: Channels = 1) -> U8:
    """Load all images of a table in its order, `uint8 [N, size, size]` or in colour `[N, size, size, 3]`."""
    images = np.empty((len(table), size, size, *([3] if channels == 3 else [])), np.uint8)
    files = [root / path for path in table["path"]]

    def load(index: int) -> None:
        images[index] = read_image(files[index], channels, size=size)

    with ThreadPoolExecutor(workers()) as pool:
        for _ in tqdm(pool.map(load, range(len(files))), total=len(files), desc=what, unit="image"):
            pass
    return images
