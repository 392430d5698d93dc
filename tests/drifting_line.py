"""A made-up inspection line: a bundle with its reference, and a service's log that drifts when told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaldefect.deploy.bundle import FrameRule, GoldenFrame, Lineage, bundle_version, write_metadata
from metaldefect.deploy.prediction_log import SCHEMA as LOG_SCHEMA
from metaldefect.deploy.reference import REFERENCE
from metaldefect.deploy.reference import SCHEMA as REFERENCE_SCHEMA

START = datetime(2026, 11, 2, 6, tzinfo=UTC)
METADATA: dict[str, Any] = {
    "model": "none",
    "padding": True,
    "image_size": 32,
    "input": FrameRule(name="frame", type="u8", channels=(1,), levels=None),
    "outputs": {},
    "map_weights": {},
    "threshold_source": "made up",
    "precisions": {},
    "golden": [GoldenFrame(file="none.png", scores={})],
    "lineage": Lineage(),
}


class Line:
    """A project's `models/champion` with a reference of 80 images, and its `scores`; `at` is the clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.bundle, self.log = root, root / "models/champion", root / "scores"
        self.random, self.at, self.files = np.random.default_rng(0), START, 0
        self.log.mkdir()
        self.bundle.mkdir(parents=True)
        self.rewrite_reference({})

    def rewrite_reference(self, constant: dict[str, float]) -> None:
        """Make another reference, in which some columns have one value."""
        rows = [{"precision": "fp16", **row, **constant} for row in self.observe(80, 0.0)]
        pq.write_table(pa.Table.from_pylist(rows, REFERENCE_SCHEMA), self.bundle / REFERENCE)
        write_metadata(self.bundle, METADATA)

    def observe(self, count: int, brighter: float) -> list[dict[str, Any]]:
        """What a detector and a camera give."""
        return [
            {
                "score": self.random.gamma(4, 0.01),
                "grey_mean": 120 + brighter + self.random.normal(0, 5),
                "grey_std": 20 + self.random.normal(0, 1),
                "embedding": self.random.gamma(4, 0.01, 64).tolist(),
            }
            for _ in range(count)
        ]

    def runs(
        self,
        count: int,
        brighter: float = 0.0,
        version: str | None = None,
        constant: dict[str, float] | None = None,
    ) -> None:
        """Log `count` frames, one per minute, by the live model or another."""
        named = version or bundle_version(self.bundle)
        common = {"threshold": 0.2, "is_anomalous": False, "precision": "fp16", "model_version": named}
        rows = []
        for row in self.observe(count, brighter):
            self.at += timedelta(minutes=1)
            rows.append({**row, **common, **(constant or {}), "id": f"part {self.at:%H:%M}", "time": self.at})
        self.files += 1
        path = self.log / f"scores-{self.files:013}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, LOG_SCHEMA), path)
