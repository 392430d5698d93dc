"""Images of a sample table, in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from metaldefect.hardware import workers
from metaldefect.images import U8, read_grey


def load_images(root: Path, table: pd.DataFrame, size: int, what: str) -> U8:
    """All images of a table as grey `uint8 [N, size, size]`, in the table's order."""
    images = np.empty((len(table), size, size), np.uint8)
    paths = [root / path for path in table["path"]]

    def load(index: int) -> None:
        images[index] = read_grey(paths[index], size)

    with ThreadPoolExecutor(workers()) as pool:
        for _ in tqdm(pool.map(load, range(len(paths))), total=len(paths), desc=what, unit="image"):
            pass
    return images


def held_out(root: Path, limit: int, splits: tuple[str, ...] = ("test",)) -> pd.DataFrame:
    """Up to `limit` rows of the held-out splits, spread evenly over classes, always the same ones."""
    table = pd.read_parquet(root / "samples.parquet")
    table = table[table["split"].isin(splits)].sort_values(["sha256", "path"])
    # One image of each class in turn, so that a small limit still sees every class
    turn = table.groupby("label").cumcount()
    return table.assign(turn=turn).sort_values(["turn", "label"]).head(limit).reset_index(drop=True)
