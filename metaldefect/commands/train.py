"""`metaldefect train`: write a detector, its threshold, metrics and figures to one folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.commands.budget import Budget, Stopwatch, TrainingClock, seconds_per_image
from metaldefect.commands.export import RANGE_IMAGES, export_beside
from metaldefect.commands.settings import TrainSettings
from metaldefect.commands.sources import chosen_size, make_provider
from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.efficientad.calibration import (
    PAPERS,
    RIDGES,
    Calibration,
    calibrate,
    with_papers_score,
)
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.decision_figures import threshold_figures
from metaldefect.efficientad.evaluation import Scored, papers_metrics, score_test_images, summarise
from metaldefect.efficientad.figures import detector_figures, validation_curve_figure
from metaldefect.efficientad.held_out import HeldOut, hold_out
from metaldefect.efficientad.memory_bank import (
    MemoryBank,
    auroc_difference,
    available_features,
    bank_metrics,
    compare_with_bank,
    fill_bank,
    score_with_bank,
)
from metaldefect.efficientad.model_files import DetectorConfig, NetworkConfig, calibrated, save_detector
from metaldefect.efficientad.teacher_weights import load_teacher, shipped_teacher
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.efficientad.training import AfterEpoch, Trained, train
from metaldefect.efficientad.training_data import TrainingImages
from metaldefect.efficientad.training_sets import training_images
from metaldefect.efficientad.validation_curve import ValidationCurve, record
from metaldefect.errors import UserError
from metaldefect.figures import save_figures
from metaldefect.hardware import set_threads, use_device
from metaldefect.images import ImageSize, height_and_width
from metaldefect.inspection.provider import DatasetProvider, InspectionImage
from metaldefect.inspection.tiles import TiledProvider
from metaldefect.metrics import detection
from metaldefect.tiling import plan_tiles
from metaldefect.training.callbacks import ComputingTime

METRICS = "metrics.json"
DRIFT_IMAGES = 200  # that drift is measured against; more would take longer to score than they help


def run_training(settings: TrainSettings) -> dict[str, Any]:
    """Train and test a detector, write it to `settings.output` and return its metrics.

    A killed run resumes from a folder beside the output, which is deleted at the end.

    Raises:
        UserError: the images, the teacher or the settings are wrong, the time is too short, or the machine
            lacks the accelerator.
    """
    use_device(settings.accelerator)
    set_threads()
    budget = Budget(settings.minutes)
    work = work_folder(settings)
    provider = make_provider(settings, work)
    size, tiles = chosen_size(settings, provider), settings.tiles
    unseen = (provider.validation() + provider.canvases())[:DRIFT_IMAGES]
    if tiles is not None:
        provider = TiledProvider(provider, height_and_width(size), tiles, work / "tiles")
        print("; ".join([f"{len(provider.train())} tiles to train on", *provider.notes]))
    teacher = choose_teacher(settings)
    images = training_images(provider, size, settings.penalty, settings.natural, settings.penalty_images)
    held_out = hold_out(provider, size, settings.seed)
    test = provider.test()
    bank = fill_bank(images.normal, available_features(teacher), settings.seed)
    with_bank, of_bank, seconds = measure_bank(bank, test, size, settings.seed, tiles)
    clock = budget.clock_for_training(
        passes_around_training(
            held_out,
            len(images.normal),
            count_passes(test, size, tiles),
            count_passes(unseen, size, tiles) if settings.export else None,
        ),
        seconds_per_image(teacher, size),
        seconds,
    )
    trained, curve = train_and_keep_best(settings, teacher, images, held_out, work, clock)
    # Fitting the covariance keeps every image's residual on disk: too many tiles for that
    ridges = RIDGES if settings.residual_metric == "choose" and tiles is None else ()
    plain = deepcopy(trained.model)  # before a covariance may be folded in
    calibration = calibrate(trained.model, held_out.calibration, target_of(settings), ridges)
    score = partial(score_test_images, images=test, size=size, tiles=tiles)
    scored = score(trained.model, description="score test images")
    summary = summarise(scored, calibration.threshold, settings.seed)
    papers = papers_metrics(
        summary,
        calibration.record,
        lambda: score(with_papers_score(plain, calibration.record), description="the paper's score"),
    )
    difference = auroc_difference(scored, with_bank, settings.seed, detection.BOOTSTRAP_SAMPLES)
    metrics = {
        **summary,
        "threshold": calibration.threshold,
        "calibration": calibration.record,
        PAPERS: papers,
        "memory_bank": compare_with_bank(summary, of_bank, difference),
        "validation_curve": curve,
        "train_images": len(images.normal),
        "validation_images": calibration.record["threshold"]["normals"],
        "penalty_source": images.penalty_source,
        "steps": int(trained.history[-1]["step"]),
        "final_losses": dict(trained.history[-1]),
    }
    for names, reason in metrics["left_out"].items():
        print(f"not measured: {names}: {reason}")
    figures = detector_figures(
        {settings.source: scored}, calibration.threshold, with_bank, calibration.scores.normals
    )
    figures |= training_figures(settings, calibration, curve)
    config = detector_config(settings, teacher, calibration, size, provider)
    with atomic_directory(settings.output) as folder:
        look = {"image_size": size, "channels": provider.channels}
        record = settings.model_dump(mode="json") | {"penalty_source": images.penalty_source} | look
        save_detector(folder, trained.model, config, record, calibration)
        write_json(folder / METRICS, metrics)
        write_json(folder / "losses.json", trained.history)
        save_figures(figures, folder / "figures")
        if settings.export:
            validation, normal = held_out.calibration, images.normal
            export_beside(
                folder, trained.model, config, calibration, validation, normal, unseen, settings.seed,
                settings.real_golden_frames,
            )  # fmt: skip
    for figure in figures.values():
        plt.close(figure)
    shutil.rmtree(work)
    print(f"{settings.output}: {metrics['steps']} steps, {budget.in_words()}")
    return metrics


def measure_bank(
    bank: MemoryBank, test: Sequence[InspectionImage], size: ImageSize, seed: int, tiles: int | None
) -> tuple[list[Scored], dict[str, Any], float]:
    """The test set scored with the bank, the bank's metrics, and the seconds that both took."""
    watch = Stopwatch()
    scored = score_with_bank(bank, test, size, tiles)
    found = bank_metrics(bank, scored, seed, detection.BOOTSTRAP_SAMPLES)
    return scored, found, watch.seconds


def passes_around_training(held_out: HeldOut, train: int, test: int, unseen: int | None) -> int:
    """How many images the networks score outside the training, of those that the budget has not seen yet.

    The teacher alone describes every training image, a third of a detector's work. The test images are scored
    twice, with the chosen score and with the paper's. So are the calibration's images, and once more twice by
    each exported precision, which also scores the images that drift is measured against.

    Args:
        held_out: for the calibration and the curve.
        train: training images.
        test: passes over the test images.
        unseen: passes over the images that drift is measured against; None: nothing is exported.
    """
    calibration = held_out.calibration
    passes = len(calibration.normals) + len(calibration.defects)
    exported = 0 if unseen is None else len(PRECISIONS) * (2 * passes + unseen) + RANGE_IMAGES
    passes = 2 * passes + exported + 2 * test + train // 2
    if held_out.curve is not None:  # its last point lies behind the end of the training
        passes += len(held_out.curve.normals) + len(held_out.curve.defects)
    return passes


def count_passes(images: Sequence[InspectionImage], size: ImageSize, tiles: int | None) -> int:
    """How often the networks run to score whole images; all count as large as the first."""
    if tiles is None or not images:
        return len(images)
    height, width = images[0].image.shape[:2]
    return len(images) * len(plan_tiles((height, width), height_and_width(size), tiles))


def train_and_keep_best(
    settings: TrainSettings,
    teacher: PatchDescriptionNetwork,
    images: TrainingImages,
    held_out: HeldOut,
    work: Path,
    clock: TrainingClock | None,
) -> tuple[Trained, dict[str, Any]]:
    """Train for the clock or the steps; return the best state of the validation curve and its record."""

    def progress(step: int) -> float:
        return step / settings.steps if clock is None else clock.share

    if held_out.curve is None:
        print(f"note: {held_out.note}; the last state is kept")
        trained = train_detector(settings, teacher, images, work, clock=clock)
        return trained, record(None, None, held_out.note)
    curve = ValidationCurve(held_out.curve, work / "curve", progress)
    trained = train_detector(settings, teacher, images, work, curve, clock)
    kept = curve.restore_best(trained.model)
    if curve.stopped_flat:
        print(f"stopped at step {int(trained.history[-1]['step'])}: the validation curve is flat")
    return trained, record(curve, kept, held_out.note)


def target_of(settings: TrainSettings) -> Target:
    """What the threshold is for."""
    return Target.of(settings)


def training_figures(
    settings: TrainSettings, calibration: Calibration, curve: Mapping[str, Any]
) -> dict[str, Figure]:
    """Figures from the validation images alone."""
    figures = threshold_figures(calibration.scores, calibration.threshold, target_of(settings))
    if "points" in curve:
        figures["validation_curve"] = validation_curve_figure(curve["points"], curve["kept_step"])
    return figures


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
    clock: ComputingTime | None = None,
) -> Trained:
    """Train the detector as the settings say, or until the clock runs out; `work` holds the resume state."""
    epoch = settings.checkpoint_steps if clock else min(settings.checkpoint_steps, settings.steps)
    config = TrainingConfig.of(settings).model_copy(update={"checkpoint_steps": epoch})
    return train(teacher, images, config, work, after_epoch, clock)


def detector_config(
    settings: TrainSettings,
    teacher: PatchDescriptionNetwork,
    calibration: Calibration,
    size: ImageSize,
    provider: DatasetProvider,
) -> DetectorConfig:
    """The configuration that is saved with the detector and needed to use it."""
    networks = NetworkConfig(
        teacher.size,
        settings.padding,
        size,
        count_include_pad=teacher.count_include_pad,
        levels=provider.levels,
        channels=provider.channels,
        tiles=settings.tiles,
    )
    return calibrated(networks, calibration)
