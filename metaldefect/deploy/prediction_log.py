"""A log of scores in Parquet files, for watching drift and for measuring the model when verdicts arrive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metaldefect.artifacts import atomic_file
from metaldefect.images import U8, as_channels

if TYPE_CHECKING:
    from metaldefect.deploy.runtime import Detection  # imports torch, which readers of a log do not need

GRID = 8
# What a frame and the detector's answer look like, as numbers: the columns that drift is watched in
OBSERVED = (
    ("score", pa.float32()),
    ("grey_mean", pa.float32()),
    ("grey_std", pa.float32()),
    # The anomaly map averaged over 8 x 8 cells, row by row: where it is restless
    ("embedding", pa.list_(pa.float32(), GRID * GRID)),
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("time", pa.timestamp("ms", tz="UTC")),
        ("threshold", pa.float32()),
        ("is_anomalous", pa.bool_()),
        ("model_version", pa.string()),
        ("precision", pa.string()),
        *OBSERVED,
    ]
)

KEPT_FILES = 10  # files' worth of rows that wait in memory while the disk takes none


class PredictionLog:
    """Appends rows and writes them to numbered Parquet files; the oldest files are deleted.

    The newest file grows: it is written again, whole, when its last writing is some time ago.

    Args:
        folder: receives `scores-<milliseconds>.parquet`.
        rows: rows per file.
        files: files to keep.
        seconds: the first row that comes so long after the last writing brings all rows to disk.
        clock: counts seconds.
    """

    def __init__(
        self,
        folder: Path,
        rows: int = 1000,
        files: int = 100,
        seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.rows, self.files, self.seconds, self.clock = folder, rows, files, seconds, clock
        self._lock = threading.Lock()
        self._filling: list[dict[str, Any]] = []  # the newest file's rows
        self._path: Path | None = None  # of the newest file, once it is on disk
        self._written, self._last, self._fails = 0, clock(), False
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, image: U8, detection: Detection, answer: Mapping[str, Any]) -> None:
        """Log one verdict about an image `uint8 [H, W]` or `[H, W, 3]`.

        Raises OSError if the disk takes no file; the rows then wait for the next attempt.

        Args:
            image: the frame.
            detection: the detector's answer.
            answer: `id`, `threshold`, `model_version` and `precision`.
        """
        row = {
            **answer,
            "time": time.time_ns() // 1_000_000,
            "is_anomalous": detection.is_anomalous,
            **observe(image, detection),
        }
        with self._lock:
            self._filling.append(row)
            full = len(self._filling) >= self.rows and not self._fails
            if full or self.clock() - self._last >= self.seconds:
                self._write()

    def flush(self) -> None:
        """Bring all rows to disk."""
        with self._lock:
            if len(self._filling) > self._written:
                self._write()

    def _write(self) -> None:
        # Until the disk takes files again, one attempt per interval, and memory for a few files
        self._last, self._fails = self.clock(), True
        del self._filling[: -KEPT_FILES * self.rows]
        path = self._path or self._new_path()
        with atomic_file(path) as temporary:
            pq.write_table(pa.Table.from_pylist(self._filling, SCHEMA), temporary)
        if len(self._filling) >= self.rows:
            self._filling, self._path, self._written = [], None, 0
        else:
            self._path, self._written = path, len(self._filling)
        self._fails = False
        for old in sorted(self.folder.glob("scores-*.parquet"))[: -self.files]:
            old.unlink(missing_ok=True)

    def _new_path(self) -> Path:
        number = time.time_ns() // 1_000_000
        while (path := self.folder / f"scores-{number}.parquet").exists():
            number += 1
        return path


def observe(image: NDArray[Any], detection: Detection) -> dict[str, Any]:
    """The columns `OBSERVED` of one frame; of a colour frame its grey levels."""
    grey = as_channels(image, 1)
    return {
        "score": detection.score,
        "grey_mean": float(grey.mean()),
        "grey_std": float(grey.std()),
        "embedding": map_means(detection),
    }


def map_means(detection: Detection) -> list[float]:
    """Means of the anomaly map over 8 x 8 cells, row by row."""
    rows = np.array_split(detection.anomaly_map, GRID, axis=0)
    return [float(cell.mean()) for row in rows for cell in np.array_split(row, GRID, axis=1)]


def read_log(folder: Path) -> pd.DataFrame:
    """All rows of a log, oldest first; empty if there is none.

    A service that runs deletes its oldest files, so one that vanishes while this reads is left out.
    """
    tables = []
    for path in sorted(folder.glob("scores-*.parquet")):
        try:
            tables.append(pq.read_table(path, schema=SCHEMA))
        except FileNotFoundError:
            continue
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return table.to_pandas().sort_values("time", kind="stable", ignore_index=True)


def observed_columns(rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """The columns `OBSERVED` of log or reference rows: `[N]` each, the embedding `[N, 64]`."""
    columns = {name: rows[name].to_numpy(np.float64) for name, _ in OBSERVED if name != "embedding"}
    vectors = [np.asarray(vector, np.float64) for vector in rows["embedding"]]
    return columns | {"embedding": np.stack(vectors) if vectors else np.empty((0, GRID * GRID))}
