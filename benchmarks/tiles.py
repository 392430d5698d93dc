"""`python -m benchmarks.tiles`: the detector on real magnetic tiles against steps, beside a memory bank.

For each seed, the defect-free tiles are split by scene, and all defective tiles are in test. Each teacher
(`shipped`, `random`, `NAME=PATH`) trains one detector up to the last of `--steps`; at each of them it is
calibrated with painted defects and scored on test tiles. The last one is set up as `metaldefect train` does
it and measured in full, beside the paper's score of the same networks, and beside every choice that the
calibration had (metric of the residual, weights of the two maps): so one sees whether painted defects choose
well. A memory bank on the teacher's backbone is scored on the same tiles. Finished runs are skipped and
killed runs resume; when all are done, their numbers become `benchmarks/results/tiles.json` and
`docs/images/tiles.png`. A short run (`--seeds 0 --steps 250 500 1000`) is a whole one of its size: the result
says which steps and seeds it has.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.results import add_results_argument, publish
from benchmarks.tile_measures import Minutes, curve_point, measure_choices
from benchmarks.tile_teachers import RANDOM, SHIPPED, Teacher, parse_teachers
from metaldefect.artifacts import read_json, write_json
from metaldefect.commands.settings import TrainSettings
from metaldefect.commands.sources import chosen_size, prepared_folder
from metaldefect.commands.train import detector_config, target_of, train_detector
from metaldefect.efficientad.calibration import PAPER_SHARE, RIDGES, Scores, calibrate
from metaldefect.efficientad.config import AUTO
from metaldefect.efficientad.evaluation import Scored, score_test_images, summarise
from metaldefect.efficientad.figures import detector_figures, steps_figure
from metaldefect.efficientad.held_out import hold_out
from metaldefect.efficientad.memory_bank import (
    backbone_features,
    bank_metrics,
    fill_bank,
    score_with_bank,
)
from metaldefect.efficientad.model_files import save_detector
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.efficientad.training_sets import resized_images, training_images
from metaldefect.errors import UserError
from metaldefect.figures import save_figures
from metaldefect.hardware import machine_name, set_threads
from metaldefect.ingest.natural import evenly_spaced
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.metrics import detection

# Name in the results -> name of the metric.
REPORTED = {
    "image_auroc": "image_auroc",
    "au_pro": "au_pro",
    "f1": "f1_at_threshold",
    "f1_calibrated": "f1_calibrated",
    "f1_max": "f1_max",
}
OF_BANK = ("image_auroc", "au_pro")
OF_PAPER = ("image_auroc", "au_pro", "f1_max")
# The threshold for `f1_calibrated` weighs a missed painted defect as much as a flagged normal tile.
BALANCED = Target(cost_miss=1, cost_false_alarm=1, defect_share=0.5)


class TileRun(NamedTuple):
    """One training and its test: `points` are the steps of the curve, in ascending order."""

    teacher: Teacher
    settings: TrainSettings
    work: Path
    points: tuple[int, ...]
    curve_images: int

    @property
    def name(self) -> str:
        """The name of the run's files."""
        return f"{self.teacher.name}_seed{self.settings.seed}"


def provider_of_seed(settings: TrainSettings, work: Path) -> RealDatasetProvider:
    """The tiles, split by scene with the seed; prepared once per seed."""
    assert settings.root is not None
    folder = work / f"seed{settings.seed}" / "inspection"
    if not folder.is_dir():
        prepared_folder(settings.adapter, settings.root, settings.seed, folder.parent)
    return RealDatasetProvider(folder)


def choice_folder(settings: TrainSettings, teacher: Teacher, work: Path) -> Path:
    """Keeps the size chosen for a seed's tiles and a teacher: the memory bank and the detector share it."""
    return work / f"seed{settings.seed}" / teacher.name


def run_bank(settings: TrainSettings, teacher: Teacher, work: Path) -> None:
    """Score the test tiles of a seed with a memory bank, at the teacher's size; write `bank_seed<n>.json`."""
    path = work / f"bank_seed{settings.seed}.json"
    if path.is_file():
        return
    provider = provider_of_seed(settings, work)
    network = teacher.load(settings.model, settings.padding, settings.seed)
    choice = chosen_size(settings, provider, network, choice_folder(settings, teacher, work))
    size, started = choice.size, time.monotonic()
    bank = fill_bank(resized_images(provider.train(), size), backbone_features(), settings.seed)
    scored = score_with_bank(bank, provider.test(), size)
    found = bank_metrics(bank, scored, settings.seed, detection.BOOTSTRAP_SAMPLES)
    record = {"image_size": size, "machine": machine_name()}
    write_json(path, found | record | {"minutes": (time.monotonic() - started) / 60})
    print(f"memory bank, seed {settings.seed}: image AUROC {found['image_auroc']:.3f}", flush=True)


def run_one(run: TileRun) -> None:
    """Train and test one detector; write `<teacher>_seed<n>.json` and, next to it, the detector's folder.

    Raises:
        UserError: the file already holds a result of other settings.
    """
    settings, work, name = run.settings, run.work, run.name
    path, state = work / f"{name}.json", work / f"{name}.training"
    # "root" and "output" are locations, not settings.
    kept = settings.model_dump(mode="json", exclude={"root", "output", "synthetic", "generated", "source"})
    recipe = kept | {"teacher": run.teacher.fingerprint(), "points": list(run.points)}
    recipe |= {"curve_images": run.curve_images}
    if path.is_file():
        if read_json(path)["recipe"] != recipe:
            raise UserError(f"{path} is of other settings: delete it, or choose another --work")
        print(f"{name}: done before", flush=True)
        return
    print(f"{name}: {settings.steps} steps", flush=True)
    provider = provider_of_seed(settings, work)
    network = run.teacher.load(settings.model, settings.padding, settings.seed)
    size = chosen_size(settings, provider, network, choice_folder(settings, run.teacher, work)).size
    images = training_images(provider, size, settings.penalty, settings.natural, settings.penalty_images)
    held_out, test = hold_out(provider, size, settings.seed), provider.test()
    chosen = test if run.curve_images == 0 else [test[i] for i in evenly_spaced(len(test), run.curve_images)]
    minutes, curve_path = Minutes(state / "minutes.json"), state / "curve.json"

    def follow(model: EfficientAD, step: int) -> bool:
        minutes.save()
        if step in run.points:
            rows = read_json(curve_path) if curve_path.is_file() else []
            point = curve_point(model, held_out, chosen, size)
            print(f"{name}: step {step}, image AUROC {point['image_auroc']:.3f}", flush=True)
            row = {"step": step, **point, "minutes": round(minutes.total, 2)}
            write_json(curve_path, [*(row for row in rows if row["step"] < step), row])
        return False

    trained = train_detector(settings, network, images, state, follow)
    minutes_of_training = minutes.total
    paper = copy.deepcopy(trained.model)
    calibrate(paper, held_out.calibration, target_of(settings))
    paper.map_weights.fill_(PAPER_SHARE)
    choices = measure_choices(trained.model, held_out.calibration, test, size)
    calibration = calibrate(trained.model, held_out.calibration, target_of(settings), RIDGES)
    scored = score_test_images(trained.model, test, size, f"test {name}")
    # The threshold concerns none of the numbers that are kept of the paper's score
    by_paper = summarise(score_test_images(paper, test, size, f"{name}, paper's score"), 0.0, settings.seed)
    result = {
        "recipe": recipe,
        "image_size": size,
        "machine": machine_name(),
        "metrics": with_balanced_threshold(
            summarise(scored, calibration.threshold, settings.seed), scored, calibration.scores
        ),
        "paper_score": {
            metric: {"value": by_paper[metric], "interval_95": by_paper["interval_95"][metric]}
            for metric in OF_PAPER
        },
        "choices": choices,
        "threshold": calibration.threshold,
        "calibration": calibration.record,
        "train_images": len(images.normal),
        "penalty_source": images.penalty_source,
        "curve": read_json(curve_path),
        "final_losses": dict(trained.history[-1]),
        "minutes": minutes_of_training,
        "minutes_with_tests": minutes.total,
    }
    detector = work / name
    detector.mkdir(parents=True, exist_ok=True)
    config = detector_config(settings, network, calibration, size, provider)
    save_detector(detector, trained.model, config, recipe, calibration)
    groups = {f"magnetic tiles, {run.teacher.name} teacher": scored}
    save_figures(detector_figures(groups, calibration.threshold), detector / "figures")
    write_json(path, result)
    shutil.rmtree(state)


def with_balanced_threshold(
    metrics: dict[str, Any], scored: Sequence[Scored], scores: Scores
) -> dict[str, Any]:
    """The metrics with `f1_calibrated`: F1 at the threshold that weighs both errors on painted defects."""
    threshold = scores.threshold(BALANCED).value
    labels = np.array([item.is_defective for item in scored])
    values = np.array([item.score for item in scored])
    statistic = partial(detection.f1_at, threshold=threshold)
    interval = detection.bootstrap_interval(statistic, values, labels, [item.scene for item in scored])
    metrics["interval_95"]["f1_calibrated"] = list(interval)
    return metrics | {"f1_calibrated": statistic(values, labels), "threshold_calibrated": threshold}


def run_all(runs: Sequence[TileRun], jobs: int) -> None:
    """Call `run_one` with each run, `jobs` at a time."""
    if jobs == 1:
        for run in runs:
            run_one(run)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        started = [pool.submit(run_one, run) for run in runs]
        try:
            for future in started:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # running ones finish, waiting ones are cancelled
            raise


def collect_results(work: Path, teachers: Sequence[Teacher], seeds: Sequence[int]) -> dict[str, Any]:
    """The results: each teacher's numbers by seed, and its gain over the random teacher."""
    section: dict[str, Any] = {}
    for teacher in teachers:
        runs = {seed: read_json(work / f"{teacher.name}_seed{seed}.json") for seed in seeds}
        entry: dict[str, Any] = {
            name: {
                str(seed): {
                    "value": run["metrics"][metric],
                    "interval_95": run["metrics"]["interval_95"][metric],
                }
                for seed, run in runs.items()
            }
            for name, metric in REPORTED.items()
        }
        entry["mean"] = {
            name: float(np.mean([run["metrics"][metric] for run in runs.values()]))
            for name, metric in REPORTED.items()
        }
        entry["per_type"] = {str(seed): run["metrics"]["per_type"] for seed, run in runs.items()}
        entry["curve"] = {str(seed): run["curve"] for seed, run in runs.items()}
        entry["images"] = {str(seed): run["metrics"]["images"] for seed, run in runs.items()}
        entry["map_weights"] = {str(seed): run["calibration"]["map_weights"] for seed, run in runs.items()}
        entry["residual_metric"] = {
            str(seed): run["calibration"]["residual_metric"]["chosen"] for seed, run in runs.items()
        }
        entry["paper_score"] = {
            name: {str(seed): run["paper_score"][name] for seed, run in runs.items()} for name in OF_PAPER
        }
        entry["choices"] = {str(seed): run["choices"] for seed, run in runs.items()}
        for name in ("image_size", "minutes", "minutes_with_tests"):
            entry[name] = {str(seed): run[name] for seed, run in runs.items()}
        section[f"{teacher.name}_teacher"] = entry
    section["memory_bank"] = {str(seed): read_json(work / f"bank_seed{seed}.json") for seed in seeds}
    baseline = section.get(f"{RANDOM}_teacher")
    if baseline is not None:
        section["gain_over_random_teacher"] = {
            name.removesuffix("_teacher"): {
                metric: entry["mean"][metric] - baseline["mean"][metric]
                for metric in ("image_auroc", "au_pro")
            }
            for name, entry in section.items()
            if name.endswith("_teacher") and entry is not baseline
        }
    return section


def main() -> None:
    """Run what is missing, then publish the results and draw the curves."""
    arguments = parse_arguments()
    set_threads()
    teachers = parse_teachers(arguments.teachers, arguments.model)
    work, points = arguments.work, tuple(sorted(set(arguments.steps)))
    runs = []
    for seed in arguments.seeds:
        settings = settings_of(arguments, seed, points)
        run_bank(
            settings, teachers[0], work
        )  # before the runs, because it prepares the tiles that they share
        runs += [TileRun(teacher, settings, work, points, arguments.curve_images) for teacher in teachers]
    run_all(runs, arguments.jobs)
    section = collect_results(work, teachers, arguments.seeds) | {
        "steps": list(points),
        "seeds": arguments.seeds,
        "learning_rate": arguments.learning_rate,
        "hard_quantile": arguments.hard_quantile,
        "image_size": arguments.image_size,
        "model": f"EfficientAD-{arguments.model}",
    }
    draw_curves(section, teachers, arguments.picture, arguments.curve_images)
    parts = [run.name for run in runs] + [f"bank_seed{seed}" for seed in arguments.seeds]
    machine = " and ".join(sorted({read_json(work / f"{part}.json")["machine"] for part in parts}))
    publish(arguments.results, "tiles", figures_of(section, teachers), section, machine)


def draw_curves(
    section: Mapping[str, Any], teachers: Sequence[Teacher], picture: Path, curve_images: int
) -> None:
    """Draw image AUROC against steps, with that of the memory bank as a line.

    Args:
        section: what was measured.
        teachers: those that trained a detector.
        picture: the file.
        curve_images: test tiles per point; 0: all.
    """
    curves: dict[str, list[list[dict[str, float]]]] = {}
    for teacher in teachers:
        runs = list(section[f"{teacher.name}_teacher"]["curve"].values())
        curves[f"{teacher.name} teacher, maps weighed by painted defects"] = runs
        curves[f"{teacher.name} teacher, maps weighed alike (the paper)"] = [
            [{"step": row["step"], "image_auroc": row["image_auroc_paper"]} for row in run] for run in runs
        ]
    bank = np.mean([found["image_auroc"] for found in section["memory_bank"].values()])
    figure = steps_figure(
        curves, "image_auroc", {"PatchCore-like bank, no training (all test tiles)": float(bank)}
    )
    sizes = sorted({found["image_size"] for found in section["memory_bank"].values()})
    tiles = f"{curve_images} of the" if curve_images else "all"
    figure.axes[0].set_title(f"Magnetic tiles, {', '.join(map(str, sizes))} px: {tiles} test tiles")
    save_figures({picture.stem: figure}, picture.parent)
    plt.close(figure)


def settings_of(arguments: argparse.Namespace, seed: int, points: Sequence[int]) -> TrainSettings:
    """The settings of a seed's trainings; their states are saved at every point of the curve."""
    return TrainSettings(
        output=arguments.work,
        source="real",
        adapter="magnetic_tile",
        root=arguments.raw,
        model=arguments.model,
        image_size=arguments.image_size,
        channels=1,
        steps=points[-1],
        checkpoint_steps=math.gcd(*points),
        natural=arguments.natural,
        penalty_images=arguments.penalty_images,
        learning_rate=arguments.learning_rate,
        hard_quantile=arguments.hard_quantile,
        seed=seed,
    )


def figures_of(section: dict[str, Any], teachers: Sequence[Teacher]) -> dict[str, Any]:
    """Means over the seeds, and each seed's number with its interval, as flat figures.

    The first teacher's figures have plain names; those of the others start with `<teacher>_teacher_`.
    """
    figures: dict[str, Any] = {}
    for number, teacher in enumerate(teachers):
        entry = section[f"{teacher.name}_teacher"]
        prefix = "" if number == 0 else f"{teacher.name}_teacher_"
        for name in REPORTED:
            figures[f"{prefix}{name}"] = entry["mean"][name]
            for seed, found in entry[name].items():
                low, high = found["interval_95"]
                figures[f"{prefix}{name}_seed{seed}"] = {"value": found["value"], "low": low, "high": high}
    for name in OF_BANK:
        by_seed = {seed: found[name] for seed, found in section["memory_bank"].items()}
        figures[f"memory_bank_{name}"] = float(np.mean(list(by_seed.values())))
        figures |= {f"memory_bank_{name}_seed{seed}": value for seed, value in by_seed.items()}
    paper = section[f"{teachers[0].name}_teacher"]["paper_score"]
    for name, by_seed in paper.items():
        figures[f"paper_score_{name}"] = float(np.mean([found["value"] for found in by_seed.values()]))
        for seed, found in by_seed.items():
            low, high = found["interval_95"]
            figures[f"paper_score_{name}_seed{seed}"] = {"value": found["value"], "low": low, "high": high}
    minutes = section[f"{teachers[0].name}_teacher"]["minutes"]
    figures["minutes"] = float(np.mean(list(minutes.values())))
    figures |= {f"minutes_seed{seed}": value for seed, value in minutes.items()}
    return figures


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("--raw", type=Path, default=Path("data/raw/Magnetic-tile-defect"))
    parser.add_argument("--natural", type=Path, help="photographs for the penalty (default: packaged ones)")
    parser.add_argument("--penalty-images", type=int, default=500)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[250, 500, 1000, 2000, 4000, 8000],
        help="steps of the curve; training ends with the last (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--learning-rate", type=float, default=4e-4, help="the paper: 1e-4")
    parser.add_argument("--hard-quantile", type=float, default=0.97, help="the paper: 0.999")
    parser.add_argument(
        "--image-size", default=AUTO, help="px; auto: painted defects decide, as in `metaldefect train`"
    )
    parser.add_argument("--model", choices=("S", "M"), default="S")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--teachers", nargs="+", default=[SHIPPED], metavar="TEACHER",
        help="shipped, random, or NAME=PATH such as short=teacher_short.safetensors",
    )  # fmt: skip
    parser.add_argument(
        "--curve-images", type=int, default=136, help="test images per point of the curve; 0: all"
    )
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/tiles.png"), help="of the curves")
    parser.add_argument("--work", type=Path, default=Path("data/tiles"), help="runs, detectors and figures")
    add_results_argument(parser, "tiles")
    return parser.parse_args()


if __name__ == "__main__":
    main()
