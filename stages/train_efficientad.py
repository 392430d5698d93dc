"""Stage `train_efficientad`: the detector, its threshold, and how well it finds real and drawn defects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.efficientad.evaluation import Scored, rounded, score_test_images, summarise
from metaldefect.efficientad.figures import heat_map_figure, histogram_figure, pro_figure, roc_figure
from metaldefect.efficientad.lightning_model import TrainingConfig
from metaldefect.efficientad.model_files import DetectorConfig, save_detector
from metaldefect.efficientad.teacher_weights import load_teacher
from metaldefect.efficientad.training import train
from metaldefect.efficientad.training_sets import training_images
from metaldefect.inspection.provider import GeneratedDatasetProvider, RealDatasetProvider
from pipeline.params import Params, TrainEfficientAD
from pipeline.run import StageRun, run_stage

TEACHER = Path("models/teacher/teacher.safetensors")
INSPECTION = Path("data/merged/inspection")
INSERTED = Path("data/synthetic/inserted")
OUTPUT = Path("models/efficientad")
METRICS = Path("metrics/train_efficientad.json")
PLOTS = Path("plots/train_efficientad")


def main(params: Params, run: StageRun) -> None:
    """Train on normal images, choose the threshold on held-out ones, measure on both test sets."""
    section = params.train_efficientad
    provider = RealDatasetProvider(INSPECTION)
    generated = GeneratedDatasetProvider(INSPECTION, INSERTED)
    images, validation = training_images(
        provider,
        section.image_size,
        section.penalty,
        Path(section.natural) if section.natural else None,
        section.penalty_images,
    )
    teacher = load_teacher(TEACHER, section.padding)
    trained = train(
        teacher,
        images,
        validation,
        configuration(section, params.seed),
        section.threshold_quantile,
        run.checkpoint_directory,
    )
    config = DetectorConfig(
        size=teacher.size,
        padding=section.padding,
        image_size=section.image_size,
        threshold=trained.threshold,
        threshold_quantile=section.threshold_quantile,
        threshold_source=(
            f"{section.threshold_quantile} quantile of the scores of {len(validation)} validation normals"
        ),
    )
    groups = {
        f"{kind} defects": score_test_images(trained.model, test, section.image_size, f"score {kind} defects")
        for kind, test in (("real", provider.test()), ("generated", generated.test()))
    }
    metrics: dict[str, Any] = {
        **summarise(groups["real defects"], trained.threshold, params.seed),
        "generated": summarise(groups["generated defects"], trained.threshold, params.seed),
        "threshold": trained.threshold,
        "train_images": len(images.normal),
        "validation_images": len(validation),
        "penalty_source": images.penalty_source,
        "final_losses": final_losses(trained.history),
    }
    with atomic_directory(OUTPUT) as folder:
        record = asdict(configuration(section, params.seed)) | {"penalty_source": images.penalty_source}
        save_detector(folder, trained.model, config, record)
    write_plots(groups, trained.threshold, trained.history, run)
    metrics = rounded(metrics)
    write_json(METRICS, metrics)
    run.log_metrics(metrics)
    run.log_history(trained.history)


def configuration(section: TrainEfficientAD, seed: int) -> TrainingConfig:
    """The parameters in the library's words."""
    return TrainingConfig(
        steps=section.steps,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        hard_quantile=section.hard_quantile,
        checkpoint_steps=section.checkpoint_steps,
        seed=seed,
    )


def final_losses(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each loss's mean over the last tenth of the recorded steps."""
    last = pd.DataFrame(history[-max(1, len(history) // 10) :])
    return {str(name): float(value) for name, value in last.drop(columns="step").mean().items()}


def write_plots(
    groups: dict[str, list[Scored]], threshold: float, history: Sequence[dict[str, float]], run: StageRun
) -> None:
    """Curves as CSV, figures as PNG; the figures also go to the tracking server."""
    figures = {
        "roc.png": roc_figure(groups),
        "pro_curve.png": pro_figure(groups),
        "score_histogram.png": histogram_figure(groups, threshold),
        "heat_maps_best_median_worst.png": heat_map_figure(groups["real defects"], threshold),
        "heat_maps_generated_best_median_worst.png": heat_map_figure(groups["generated defects"], threshold),
    }
    with atomic_directory(PLOTS) as folder:
        pd.DataFrame(history).to_csv(folder / "losses.csv", index=False, float_format="%.6g")
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=100)
    for name, figure in figures.items():
        run.log_figure(figure, name)
        plt.close(figure)


if __name__ == "__main__":
    run_stage("train_efficientad", main)
