"""`metaldefect train`: write a detector, its threshold, metrics and figures to one folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.commands.settings import TrainSettings
from metaldefect.commands.sources import make_provider
from metaldefect.efficientad.calibration import Calibration, calibrate
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.evaluation import Scored, score_test_images, summarise
from metaldefect.efficientad.figures import detector_figures
from metaldefect.efficientad.model_files import DetectorConfig, NetworkConfig, calibrated, save_detector
from metaldefect.efficientad.teacher_weights import load_teacher, shipped_teacher
from metaldefect.efficientad.torch_model import EfficientAD, PatchDescriptionNetwork
from metaldefect.efficientad.training import AfterEpoch, Trained, train
from metaldefect.efficientad.training_data import TrainingImages
from metaldefect.efficientad.training_sets import training_images
from metaldefect.errors import UserError
from metaldefect.hardware import set_threads, use_device
from metaldefect.image_files import Levels
from metaldefect.images import stack_resized
from metaldefect.inspection.provider import DatasetProvider

METRICS = "metrics.json"


def run_training(settings: TrainSettings) -> dict[str, Any]:
    """Train and test a detector, write it to `settings.output` and return its metrics.

    A killed run resumes from a folder beside the output, which is deleted at the end.

    Raises:
        UserError: the images, the teacher or the settings are wrong, or the machine lacks the accelerator.
    """
    use_device(settings.accelerator)
    set_threads()
    work = work_folder(settings)
    provider = make_provider(settings, work)
    teacher = choose_teacher(settings)
    images = training_images(
        provider, settings.image_size, settings.penalty, settings.natural, settings.penalty_images
    )
    trained = train_detector(settings, teacher, images, work)
    calibration = calibrate_detector(settings, trained.model, provider)
    scored = score_test_images(trained.model, provider.test(), settings.image_size, "score test images")
    metrics = {
        **summarise(scored, calibration.threshold, settings.seed),
        "threshold": calibration.threshold,
        "calibration": calibration.record,
        "steps": settings.steps,
        "train_images": len(images.normal),
        "validation_images": calibration.record["threshold"]["normals"],
        "penalty_source": images.penalty_source,
        "final_losses": dict(trained.history[-1]),
    }
    for names, reason in metrics["left_out"].items():
        print(f"not measured: {names}: {reason}")
    with atomic_directory(settings.output) as folder:
        record = settings.model_dump(mode="json") | {"penalty_source": images.penalty_source}
        config = detector_config(settings, teacher, calibration, provider.levels)
        save_detector(folder, trained.model, config, record, calibration.record)
        write_json(folder / METRICS, metrics)
        write_json(folder / "losses.json", trained.history)
        save_figures({settings.source: scored}, calibration.threshold, folder / "figures")
    shutil.rmtree(work)
    return metrics


def work_folder(settings: TrainSettings) -> Path:
    """The folder that holds a run's state; the state itself records the inputs that it belongs to."""
    return settings.output.with_name(f".{settings.output.name}.training")


def choose_teacher(settings: TrainSettings) -> PatchDescriptionNetwork:
    """Load the shipped teacher of `settings.model`'s size, or the one in the file `settings.teacher`.

    Raises:
        UserError: the file holds a teacher of the other size.
    """
    path = shipped_teacher(settings.model) if settings.teacher == "shipped" else Path(settings.teacher)
    teacher = load_teacher(path, settings.padding)
    if teacher.size != settings.model:
        raise UserError(
            f"{path} holds a PDN-{teacher.size} teacher, but model is {settings.model}: change one of the two"
        )
    return teacher


def train_detector(
    settings: TrainSettings,
    teacher: PatchDescriptionNetwork,
    images: TrainingImages,
    work: Path,
    after_epoch: AfterEpoch | None = None,
) -> Trained:
    """Train the detector as the settings say; `work` holds the state for resuming."""
    epoch = min(settings.checkpoint_steps, settings.steps)
    config = TrainingConfig.of(settings).model_copy(update={"checkpoint_steps": epoch})
    return train(teacher, images, config, work, after_epoch)


def calibrate_detector(settings: TrainSettings, model: EfficientAD, provider: DatasetProvider) -> Calibration:
    """Choose scales, map weights and threshold on the provider's held-out images."""
    normals, defects = (
        stack_resized((item.image for item in images), settings.image_size)
        for images in (provider.validation(), provider.defects())
    )
    return calibrate(model, normals, defects, settings.threshold_quantile)


def detector_config(
    settings: TrainSettings,
    teacher: PatchDescriptionNetwork,
    calibration: Calibration,
    levels: Levels | None = None,
) -> DetectorConfig:
    """The configuration that is saved with the detector and needed to use it."""
    networks = NetworkConfig(
        teacher.size,
        settings.padding,
        settings.image_size,
        count_include_pad=teacher.count_include_pad,
        levels=levels,
    )
    return calibrated(networks, calibration, settings.threshold_quantile)


def save_figures(groups: Mapping[str, Sequence[Scored]], threshold: float, folder: Path) -> None:
    """Draw the figures of the test sets and write them as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in detector_figures(groups, threshold).items():
        figure.savefig(folder / f"{name}.png", dpi=100)
        plt.close(figure)
