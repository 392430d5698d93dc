"""Artifact paths in MLflow's SQLite store, relative to the project's folder.

MLflow makes every local path absolute when an experiment is created, and derives all others from it. A copied
or moved project would then write into the old folder. MLflow itself reads relative paths well: they count
from the folder in which it runs, and stages, flows and `make ui` all run in the project's folder.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def make_paths_relative(database: Path, artifacts: str) -> int:
    """Cut what stands before `artifacts` from every artifact path in the store.

    Args:
        database: MLflow's SQLite file.
        artifacts: the relative folder of all artifacts, such as `mlruns/artifacts`.

    Returns:
        The number of paths that changed.
    """
    changed = 0
    with closing(sqlite3.connect(database, timeout=60)) as store, store:
        for table, column in COLUMNS:
            place = f"instr({column}, ?)"
            cursor = store.execute(
                f"update {table} set {column} = substr({column}, {place} + 1) where {place} > 0",
                (f"/{artifacts}", f"/{artifacts}"),
            )
            changed += cursor.rowcount
    return changed
