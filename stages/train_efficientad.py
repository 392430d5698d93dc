"""Stage `train_efficientad`: train the detector's networks on normal images with the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.model_files import NetworkConfig, save_detector
from metaldefect.efficientad.teacher_weights import load_teacher
from metaldefect.efficientad.training import train
from metaldefect.efficientad.training_sets import training_images
from metaldefect.inspection.provider import RealDatasetProvider
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

TEACHER = Path("models/teacher/teacher.safetensors")
INSPECTION = Path("data/merged/inspection")
OUTPUT = Path("models/efficientad")
LOSSES = "losses.csv"
METRICS = Path("metrics/train_efficientad.json")


def main(params: Params, run: StageRun) -> None:
    """Write the trained but uncalibrated networks and their training losses."""
    section = params.train_efficientad
    provider = RealDatasetProvider(INSPECTION, params.data.channels)
    images = training_images(
        provider,
        section.image_size,
        section.penalty,
        section.natural,
        section.penalty_images,
    )
    teacher = load_teacher(TEACHER, section.padding)
    config = TrainingConfig.of(section, seed=params.seed)
    trained = train(teacher, images, config, run.checkpoint_directory)
    with atomic_directory(OUTPUT) as folder:
        networks = NetworkConfig(
            teacher.size,
            section.padding,
            section.image_size,
            count_include_pad=teacher.count_include_pad,
            levels=provider.levels,
            channels=provider.channels,
        )
        save_detector(
            folder, trained.model, networks, config.model_dump() | {"penalty_source": images.penalty_source}
        )
        pd.DataFrame(trained.history).to_csv(folder / LOSSES, index=False, float_format="%.6g")
    metrics = {
        "train_images": len(images.normal),
        "penalty_source": images.penalty_source,
        "final_losses": final_losses(trained.history),
    }
    write_json(METRICS, metrics)
    run.log_metrics(metrics)
    run.log_history(trained.history)


def final_losses(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each loss over the last tenth of the recorded steps."""
    last = pd.DataFrame(history[-max(1, len(history) // 10) :])
    return {str(name): float(value) for name, value in last.drop(columns="step").mean().items()}


if __name__ == "__main__":
    run_stage("train_efficientad", main)
