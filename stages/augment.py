"""Stage `augment`: the eight symmetries of every training image."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import write_json
from metaldefect.ingest.augment import augment
from metaldefect.ingest.samples import counts_of
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

MERGED = Path("data/merged")
OUTPUT = Path("data/augmented")
METRICS = Path("metrics/augment.json")


def main(params: Params, run: StageRun) -> None:
    """Write the augmented train split to `data/augmented`."""
    table = augment(
        MERGED,
        OUTPUT,
        partial=run.checkpoint_directory / OUTPUT.name,
        png_level=params.augment.png_level,
        photometric=params.augment.photometric,
        seed=params.seed,
        channels=params.data.channels,
    )
    metrics = {
        "total": len(table),
        "per_class": counts_of(table["label"]),
        "per_source": counts_of(table["source"]),
        "with_mask": int(table["mask_path"].notna().sum()),
    }
    write_json(METRICS, metrics)
    run.log_metrics(metrics)


if __name__ == "__main__":
    run_stage("augment", main)
