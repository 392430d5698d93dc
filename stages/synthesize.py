"""Stage `synthesize`: draw images per class, and insert defects with masks into normal images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from metaldefect.artifacts import atomic_directory, sha256_file, write_json
from metaldefect.hardware import keep_freed_memory
from metaldefect.images import write_png
from metaldefect.ingest.expectations import ValidationReport, validate_synthetic
from metaldefect.ingest.expectations import write as write_validation
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.config import InsertionConfig
from metaldefect.synthesis.drawing import DrawnImages, draw_classes
from metaldefect.synthesis.insertion import canvases_of
from metaldefect.synthesis.insertion_set import training_masks, window_sides, write_insertion_set
from metaldefect.synthesis.painter import Painter, load_painter
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "synthesize"
MERGED = Path("data/merged")
OUTPUT = Path("data/synthetic")
REPORTS = Path("reports/synthesize")


def main(params: Params, run: StageRun) -> None:
    """Write `data/synthetic`: whole images, candidates' features, insertions, and how each was drawn."""
    keep_freed_memory()
    section = params.synthesize
    painter = load_painter(Path("models/vq"), Path("models/maskgit"))
    if section.detail != "exemplars":
        painter = replace(painter, exemplars=None)
    if section.detail == "none":
        painter = replace(painter, grain=None)
    batch_size = section.sampling.batch_size
    sampling = SamplingConfig.of(section.sampling)
    drawn = draw_classes(
        painter, MERGED, section.images_per_class, sampling,
        section.candidates, batch_size, params.seed,
    )  # fmt: skip
    inserting = InsertionConfig(
        per_class=section.insertions_per_class,
        attempts=section.insertion_attempts,
        feather=section.feather,
        batch_size=batch_size,
    )
    canvases = canvases_of(RealDatasetProvider(MERGED / "inspection", channels=3))
    with atomic_directory(OUTPUT) as folder:
        report = write_images(painter, drawn, section.images_per_class, folder)
        insertions = write_insertion_set(
            painter, canvases, training_masks(MERGED), folder, sampling, inserting, params.seed,
            window_sides(MERGED),
        )  # fmt: skip
        write_json(folder / "config.json", {"seed": params.seed, "sampling": sampling.model_dump()})
    if not insertions["drawn"]:
        print("no defects inserted: no class but `good` to draw")
    metrics = {
        "images": len(drawn.images),
        "candidates": len(drawn.images if drawn.candidates is None else drawn.candidates.labels),
        "insertions": insertions,
        "expectations_passed": report.passed,
        "expectations_failed": report.failed,
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)


def write_images(painter: Painter, drawn: DrawnImages, per_class: int, folder: Path) -> ValidationReport:
    """Write whole images with their table, and validate them.

    Raises:
        ValidationFailedError: a check failed; the message lists every failed expectation.
    """
    rows = []
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True)):
        path = f"images/{label}/{label}_{number % per_class:05d}.png"
        write_png(folder / path, image)
        rows.append({"path": path, "label": label, "sha256": sha256_file(folder / path)})
    table = pd.DataFrame(rows)
    table.to_parquet(folder / "samples.parquet", index=False)
    if drawn.candidates is not None:
        drawn.candidates.save(folder)
    report = validate_synthetic(
        table, painter.classes, painter.image_size, per_class, folder=folder, channels=painter.channels
    )
    write_validation(report, REPORTS)
    report.raise_if_failed()
    return report


if __name__ == "__main__":
    run_stage(STAGE, main)
