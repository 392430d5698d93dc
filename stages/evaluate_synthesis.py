"""Stage `evaluate_synthesis`: compare drawn images and inserted defects with real test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.figures import save_figures
from metaldefect.hardware import keep_freed_memory
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.metrics.generation_suite import Labelled, evaluate, nearest_neighbours
from metaldefect.synthesis.drawing import Candidates
from metaldefect.synthesis.evaluation import (
    EXTRACTOR,
    RealSides,
    block_ratios,
    drawn_images,
    gain_at,
    insertion_block_ratio,
    inspection_border_gradients,
    judge_drawn_images,
    real_border_gradients,
    real_images,
    real_sides,
    seam_metrics,
)
from metaldefect.synthesis.figures import inserted_defects, mixed_sheet, neighbours, real_and_drawn, unmasking
from metaldefect.synthesis.insertion_set import read_insertions
from metaldefect.synthesis.painter import Painter, load_painter
from metaldefect.synthesis.realism import measure_realism
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "evaluate_synthesis"
MERGED = Path("data/merged")
SYNTHETIC = Path("data/synthetic")


def main(params: Params, run: StageRun) -> None:
    """Measure `data/synthetic` against the test images of the merged set."""
    keep_freed_memory()
    section = params.evaluate_synthesis
    painter = load_painter(Path("models/vq"), Path("models/maskgit"))
    size = painter.image_size
    table = pd.read_parquet(SYNTHETIC / "samples.parquet")
    fake = drawn_images(SYNTHETIC, size, painter.channels)
    candidates = Candidates.load(SYNTHETIC)
    real = real_sides(painter, MERGED, "test")
    seams = seam_metrics(
        read_insertions(SYNTHETIC),
        real_border_gradients(MERGED, section.border_images),
        inspection_border_gradients(MERGED / "inspection", section.border_images),
    )
    cell = size // painter.maskgit.config.grid
    config = read_json(SYNTHETIC / "config.json")
    sampling = SamplingConfig(**config["sampling"])
    metrics: dict[str, Any] = {
        "extractor": EXTRACTOR,
        **evaluate(*real, fake, params.seed, candidates and Labelled.ungrouped(*candidates)),
        **gains(painter, real, fake, params.seed),
        **judge_drawn_images(MERGED, SYNTHETIC, section.judge, params.seed, painter.channels),
        "block_ratio": block_ratios(SYNTHETIC, size, cell),
        "block_ratio_insertions": insertion_block_ratio(read_insertions(SYNTHETIC), size, cell),
        "seams": seams,
        "realism": measure_realism(painter, MERGED, "test", sampling, section.realism_defects, params.seed),
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)

    nearest = nearest_neighbours(real.train.features, fake.features)
    sheet, key = mixed_sheet(MERGED, SYNTHETIC, table, size, params.seed)
    figures = {
        "real_and_drawn_per_class": real_and_drawn(MERGED, SYNTHETIC, table, size),
        "nearest_training_images": neighbours(MERGED, SYNTHETIC, table, nearest, size),
        "unmasking": unmasking(painter, sampling, config["seed"]),
        "real_or_drawn": sheet,
        "real_or_drawn_key": key,
    }
    inserted = inserted_defects(read_insertions(SYNTHETIC))
    if inserted is not None:
        figures["inserted_defects"] = inserted
    with atomic_directory(f"plots/{STAGE}") as directory:
        save_figures(figures, directory)
    run.log_figures(figures)


def gains(painter: Painter, real: RealSides, fake: Labelled, seed: int) -> dict[str, Any]:
    """`gain_at_10`, or why it is missing."""
    if len(set(real.train.labels)) < 2:
        return {}
    validation = real_images(MERGED, "validation", painter.image_size, painter.channels)
    return {"gain_at_10": gain_at(real, validation, fake, 10, seed)}


if __name__ == "__main__":
    run_stage(STAGE, main)
