"""A log of scores in Parquet files, for watching drift."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaldefect.artifacts import atomic_file
from metaldefect.deploy.runtime import Detection
from metaldefect.images import U8

GRID = 8
SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("ms", tz="UTC")),
        ("score", pa.float32()),
        ("threshold", pa.float32()),
        ("is_anomalous", pa.bool_()),
        ("model_version", pa.string()),
        ("grey_mean", pa.float32()),
        ("grey_std", pa.float32()),
        # The anomaly map averaged over 8 x 8 cells, row by row: where it is restless
        ("embedding", pa.list_(pa.float32(), GRID * GRID)),
    ]
)


class PredictionLog:
    """Appends rows and writes them to numbered Parquet files; the oldest files are deleted.

    Args:
        folder: receives `scores-<milliseconds>.parquet`.
        rows: rows per file.
        files: files to keep.
    """

    def __init__(self, folder: Path, rows: int = 1000, files: int = 100) -> None:
        self.folder, self.rows, self.files = folder, rows, files
        self._lock = threading.Lock()
        self._pending: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, image: U8, detection: Detection, threshold: float, model_version: str) -> None:
        """Log one verdict about a grey image `uint8 [H, W]`."""
        row = {
            "time": time.time_ns() // 1_000_000,
            "score": detection.score,
            "threshold": threshold,
            "is_anomalous": detection.is_anomalous,
            "model_version": model_version,
            "grey_mean": float(image.mean()),
            "grey_std": float(image.std()),
            "embedding": map_means(detection),
        }
        with self._lock:
            self._pending.append(row)
            if len(self._pending) >= self.rows:
                self._write()

    def flush(self) -> None:
        """Write what is pending."""
        with self._lock:
            if self._pending:
                self._write()

    def _write(self) -> None:
        path = self.folder / f"scores-{time.time_ns() // 1_000_000}.parquet"
        while path.exists():
            path = path.with_name(f"scores-{int(path.stem.split('-')[1]) + 1}.parquet")
        with atomic_file(path) as temporary:
            pq.write_table(pa.Table.from_pylist(self._pending, SCHEMA), temporary)
        self._pending = []
        for old in sorted(self.folder.glob("scores-*.parquet"))[: -self.files]:
            old.unlink(missing_ok=True)


def map_means(detection: Detection) -> list[float]:
    """Means of the anomaly map over 8 x 8 cells, row by row."""
    rows = np.array_split(detection.anomaly_map, GRID, axis=0)
    return [float(cell.mean()) for row in rows for cell in np.array_split(row, GRID, axis=1)]
