"""`metaldefect train`: write a detector, its threshold, metrics and figures to one folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.commands.budget import Budget, Stopwatch, TrainingClock, seconds_per_image
from metaldefect.commands.export import export_beside
from metaldefect.commands.passes import (
    count_images,
    count_passes,
    passes_around_training,
    passes_expected,
)
from metaldefect.commands.settings import TrainSettings
from metaldefect.commands.size_in_time import size_in_time
from metaldefect.commands.sources import chosen_size, make_provider
from metaldefect.efficientad.calibration import (
    RIDGES,
    Calibration,
    calibrate,
    with_papers_score,
)
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.decision_figures import threshold_figures
from metaldefect.efficientad.evaluation import Scored, papers_metrics, score_test_images, summarise
from metaldefect.efficientad.figures import detector_figures, validation_curve_figure
from metaldefect.efficientad.held_out import (
    HeldOut,
    hold_out,
)
from metaldefect.efficientad.memory_bank import (
    MemoryBank,
    auroc_difference,
    available_features,
    bank_metrics,
    compare_with_bank,
    fill_bank,
    score_with_bank,
)
from metaldefect.efficientad.model_files import (
    CONFIG,
    PAPERS,
    WEIGHTS,
    DetectorConfig,
    NetworkConfig,
    calibrated,
    save_detector,
)
from metaldefect.efficientad.size_choice import SizeChoice
from metaldefect.efficientad.teacher_weights import load_teacher, shipped_teacher
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import EfficientAD, PatchDescriptionNetwork
from metaldefect.efficientad.training import AfterEpoch, Trained, train
from metaldefect.efficientad.training_data import TrainingImages
from metaldefect.efficientad.training_sets import training_images
from metaldefect.efficientad.validation_curve import ValidationCurve, record
from metaldefect.errors import UserError
from metaldefect.figures import save_figures
from metaldefect.hardware import set_threads, use_device
from metaldefect.images import ImageSize, height_and_width
from metaldefect.inspection.provider import DatasetProvider, InspectionImage, InspectionImages
from metaldefect.inspection.tiles import TiledProvider
from metaldefect.metrics import detection
from metaldefect.training.callbacks import ComputingTime

METRICS = "metrics.json"
DETECTOR_KEYS = {"size", "padding", "image_size", "teacher_mean", "teacher_std", "sha256"}
DRIFT_IMAGES = 200  # that drift is measured against; more would take longer to score than they help


@dataclass(frozen=True)
class Inputs:
    """What a run trains, calibrates and tests with.

    Attributes:
        provider: the images, cut into tiles if the settings say so.
        choice: the size of the images that the networks see, and why.
        tiles: how many pixels neighbouring tiles share; None: images are resized.
        unseen: whole normal images that drift is measured against.
        teacher: what the student learns from.
        images: for the training.
        held_out: for the calibration and the validation curve.
        test: for the test.
    """

    provider: DatasetProvider
    choice: SizeChoice
    tiles: int | None
    unseen: InspectionImages
    teacher: PatchDescriptionNetwork
    images: TrainingImages
    held_out: HeldOut
    test: InspectionImages

    @property
    def size(self) -> ImageSize:
        """Of the images that the networks see."""
        return self.choice.size


@dataclass(frozen=True)
class Tested:
    """A detector's calibration and what it reaches on the test images.

    Attributes:
        calibration: chosen scales, weights and threshold.
        scored: the test images.
        summary: metrics of their scores.
        papers: metrics of the paper's score.
    """

    calibration: Calibration
    scored: list[Scored]
    summary: dict[str, Any]
    papers: dict[str, float]


def run_training(settings: TrainSettings) -> dict[str, Any]:
    """Train and test a detector, write it to `settings.output` and return its metrics.

    A killed run resumes from a folder beside the output, which is deleted at the end.

    Raises:
        UserError: the output would replace something else than a detector, the images, the teacher or the
            settings are wrong, the time is too short, or the machine lacks the accelerator.
    """
    check_output(settings)
    use_device(settings.accelerator)
    set_threads()
    budget = Budget(settings.minutes)
    work = work_folder(settings)
    inputs = read_inputs(settings, work, budget)
    bank = fill_bank(inputs.images.normal, available_features(inputs.teacher), settings.seed)
    with_bank, of_bank, seconds = measure_bank(bank, inputs.test, inputs.size, settings.seed, inputs.tiles)
    clock = clock_of(settings, budget, inputs, seconds)
    trained, curve = train_and_keep_best(
        settings, inputs.teacher, inputs.images, inputs.held_out, work, clock
    )
    tested = calibrate_and_test(settings, inputs, trained.model)
    difference = auroc_difference(tested.scored, with_bank, settings.seed, detection.BOOTSTRAP_SAMPLES)
    compared = compare_with_bank(tested.summary, of_bank, difference)
    metrics = metrics_of(inputs, trained, tested, compared, curve)
    for names, reason in metrics["left_out"].items():
        print(f"not measured: {names}: {reason}")
    figures = detector_figures(
        {settings.source: tested.scored},
        tested.calibration.threshold,
        with_bank,
        tested.calibration.scores.normals,
    )
    figures |= training_figures(settings, tested.calibration, curve)
    write_output(settings, inputs, trained, tested.calibration, metrics, figures)
    for figure in figures.values():
        plt.close(figure)
    shutil.rmtree(work)
    print(f"{settings.output}: {metrics['steps']} steps, {budget.in_words()}")
    return metrics


def check_output(settings: TrainSettings) -> None:
    """Raise `UserError` if the output would replace anything else than an earlier detector."""
    output = settings.output.resolve()
    if Path.cwd().is_relative_to(output):
        raise UserError(f"--output {settings.output} holds the folder you are in: name a new folder")
    if settings.root is not None and settings.root.resolve().is_relative_to(output):
        raise UserError(f"--output {settings.output} holds the images of --root: choose another folder")
    if not output.exists() or holds_detector(output):
        return
    if output.is_file() or any(output.iterdir()):
        raise UserError(f"--output {settings.output} exists and holds no detector: choose another folder")


def holds_detector(folder: Path) -> bool:
    """Whether a folder holds what `save_detector` wrote, and not another model with a `config.json`."""
    if not (folder / WEIGHTS).is_file():
        return False
    try:
        content = read_json(folder / CONFIG)
    except (UserError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and content.keys() >= DETECTOR_KEYS


def read_inputs(settings: TrainSettings, work: Path, budget: Budget) -> Inputs:
    """Read or prepare everything that a run needs; `work` holds prepared images.

    Raises:
        UserError: the images, the teacher or the settings are wrong.
    """
    provider = make_provider(settings, work)
    teacher = choose_teacher(settings)
    choice, tiles = chosen_size(settings, provider, teacher, work), settings.tiles
    unseen = (provider.validation() + provider.canvases())[:DRIFT_IMAGES]
    if isinstance(settings.image_size, str) and tiles is None:
        passes = passes_expected(provider, len(unseen) if settings.export else None)
        choice = size_in_time(choice, passes, len(provider.test()), teacher, budget, work)
    size = choice.size
    if tiles is not None:
        provider = TiledProvider(provider, height_and_width(size), tiles, work / "tiles")
        print("; ".join([f"{len(provider.train())} tiles to train on", *provider.notes]))
    images = training_images(provider, size, settings.penalty, settings.natural, settings.penalty_images)
    held_out = hold_out(provider, size, settings.seed)
    return Inputs(provider, choice, tiles, unseen, teacher, images, held_out, provider.test())


def clock_of(
    settings: TrainSettings, budget: Budget, inputs: Inputs, bank_seconds: float
) -> TrainingClock | None:
    """The time that the budget leaves for the training; None without a budget.

    Raises:
        UserError: it is too short.
    """
    held_out = inputs.held_out
    passes = passes_around_training(
        count_images(held_out.calibration),
        0 if held_out.curve is None else count_images(held_out.curve),
        len(inputs.images.normal),
        count_passes(inputs.test, inputs.size, inputs.tiles),
        count_passes(inputs.unseen, inputs.size, inputs.tiles) if settings.export else None,
    )
    return budget.clock_for_training(passes, seconds_per_image(inputs.teacher, inputs.size), bank_seconds)


def calibrate_and_test(settings: TrainSettings, inputs: Inputs, model: EfficientAD) -> Tested:
    """Calibrate trained networks and score the test images with them, and with the paper's score."""
    # Fitting the covariance keeps every image's residual on disk: too many tiles for that
    ridges = RIDGES if settings.residual_metric == "choose" and inputs.tiles is None else ()
    plain = deepcopy(model)  # before a covariance may be folded in
    calibration = calibrate(model, inputs.held_out.calibration, target_of(settings), ridges)
    score = partial(score_test_images, images=inputs.test, size=inputs.size, tiles=inputs.tiles)
    scored = score(model, description="score test images")
    summary = summarise(scored, calibration.threshold, settings.seed)
    papers = papers_metrics(
        summary,
        calibration.papers,
        lambda: score(with_papers_score(plain, calibration.papers), description="the paper's score"),
    )
    return Tested(calibration, scored, summary, papers)


def metrics_of(
    inputs: Inputs,
    trained: Trained,
    tested: Tested,
    compared_with_bank: Mapping[str, Any],
    curve: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `METRICS`."""
    calibration = tested.calibration
    return {
        **tested.summary,
        "threshold": calibration.threshold,
        "calibration": calibration.record,
        PAPERS: tested.papers,
        "memory_bank": compared_with_bank,
        "validation_curve": curve,
        "train_images": len(inputs.images.normal),
        "validation_images": calibration.record["threshold"]["normals"],
        "penalty_source": inputs.images.penalty_source,
        **({"painted_auroc_by_image_size": inputs.choice.aurocs} if inputs.choice.aurocs else {}),
        "steps": int(trained.history[-1]["step"]),
        "final_losses": dict(trained.history[-1]),
    }


def write_output(
    settings: TrainSettings,
    inputs: Inputs,
    trained: Trained,
    calibration: Calibration,
    metrics: Mapping[str, Any],
    figures: Mapping[str, Figure],
) -> None:
    """Write the detector with its metrics and figures, and its exports if the settings ask for them."""
    model, images = trained.model, inputs.images
    config = detector_config(settings, inputs.teacher, calibration, inputs.size, inputs.provider)
    look = {"image_size": inputs.size, "channels": inputs.provider.channels}
    record = settings.model_dump(mode="json") | {"penalty_source": images.penalty_source} | look
    with atomic_directory(settings.output) as folder:
        save_detector(folder, model, config, record, calibration)
        write_json(folder / METRICS, metrics)
        write_json(folder / "losses.json", trained.history)
        save_figures(figures, folder / "figures")
        if settings.export:
            export_beside(
                folder, model, config, calibration, inputs.held_out.calibration, images.normal,
                inputs.unseen, settings.seed, settings.real_golden_frames,
            )  # fmt: skip


def measure_bank(
    bank: MemoryBank, test: Sequence[InspectionImage], size: ImageSize, seed: int, tiles: int | None
) -> tuple[list[Scored], dict[str, Any], float]:
    """The test set scored with the bank, the bank's metrics, and the seconds that both took."""
    watch = Stopwatch()
    scored = score_with_bank(bank, test, size, tiles)
    found = bank_metrics(bank, scored, seed, detection.BOOTSTRAP_SAMPLES)
    return scored, found, watch.seconds


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
