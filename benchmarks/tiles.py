"""`python -m benchmarks.tiles`: the detector on real magnetic tiles, by teacher and seed.

For each seed, the defect-free tiles are split 70/10/20 by scene, and all defective tiles are in test. For
each teacher (`shipped`, `random`, `NAME=PATH`), trains and tests a detector. Finished runs are skipped and
killed runs resume; when all are done, their numbers become `benchmarks/results/tiles.json`. `--jobs` runs
several at once, each on a share of the cores, which leaves fewer cores idle.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.results import add_results_argument, publish
from metaldefect.artifacts import read_json, sha256_file, write_json
from metaldefect.commands.settings import TrainSettings
from metaldefect.commands.sources import prepared_folder
from metaldefect.commands.train import calibrate_detector, detector_config, save_figures, train_detector
from metaldefect.efficientad.config import Size
from metaldefect.efficientad.evaluation import quick_auroc, score_test_images, summarise
from metaldefect.efficientad.figures import steps_figure
from metaldefect.efficientad.model_files import save_detector
from metaldefect.efficientad.teacher_weights import load_teacher, shipped_teacher
from metaldefect.efficientad.torch_model import EfficientAD, PatchDescriptionNetwork
from metaldefect.efficientad.training_sets import training_images
from metaldefect.errors import UserError
from metaldefect.hardware import set_threads
from metaldefect.images import stack_resized
from metaldefect.ingest.natural import spread
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import RealDatasetProvider

RANDOM, SHIPPED = "random", "shipped"
# Name in the results -> name of the metric.
REPORTED = {"image_auroc": "image_auroc", "au_pro": "au_pro", "f1": "f1_at_threshold", "f1_max": "f1_max"}
CURVE_VALIDATION = 24


@dataclass(frozen=True)
class Teacher:
    """A teacher's name and the path of its weights; None for a random teacher."""

    name: str
    path: Path | None

    def load(self, size: Size, padding: bool, seed: int) -> PatchDescriptionNetwork:
        """The frozen network.

        Raises:
            UserError: the file holds a teacher of another size.
        """
        if self.path is None:
            return random_teacher(size, padding, seed)
        teacher = load_teacher(self.path, padding)
        if teacher.size != size:
            raise UserError(f"{self.path} holds a PDN-{teacher.size} teacher, expected PDN-{size}")
        return teacher

    def fingerprint(self) -> str:
        """Identifies the teacher's weights in the settings that a result depends on."""
        return "random" if self.path is None else sha256_file(self.path)


def random_teacher(size: Size, padding: bool, seed: int) -> PatchDescriptionNetwork:
    """An untrained teacher, with He's initialisation so that the signal keeps its scale across layers.

    Its features are normalised by their mean and standard deviation, like those of any teacher.
    """
    torch.manual_seed(seed)
    teacher = PatchDescriptionNetwork(size, padding=padding)
    for module in teacher.convolutions:
        assert isinstance(module, torch.nn.Conv2d)
        assert module.bias is not None
        torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        torch.nn.init.zeros_(module.bias)
    return teacher.eval().requires_grad_(False)


def parse_teachers(words: Sequence[str], size: Size) -> list[Teacher]:
    """Parse words of the form `shipped`, `random` or `NAME=PATH`.

    Raises:
        UserError: a file does not exist, or a word has none of these forms.
    """
    teachers = []
    for word in words:
        name, _, text = word.partition("=")
        if text:
            path: Path | None = Path(text)
        elif name == SHIPPED:
            path = shipped_teacher(size)
        elif name == RANDOM:
            path = None
        else:
            raise UserError(f"teacher {word!r}: expected {SHIPPED}, {RANDOM} or NAME=PATH")
        if path is not None and not path.is_file():
            raise UserError(f"{path} does not exist: distil it, or leave out the teacher {name!r}")
        teachers.append(Teacher(name, path))
    return teachers


def run_one(teacher: Teacher, settings: TrainSettings, work: Path, points: int, curve_images: int) -> None:
    """Train and test one detector; write `<teacher>_seed<n>.json` and, next to it, the detector's folder.

    Raises:
        UserError: the file already holds a result of other settings.
    """
    name = f"{teacher.name}_seed{settings.seed}"
    path, state = work / f"{name}.json", work / f"{name}.training"
    # "root" and "output" are locations, not settings.
    kept = settings.model_dump(mode="json", exclude={"root", "output", "synthetic", "generated", "source"})
    recipe = kept | {"teacher": teacher.fingerprint(), "points": points, "curve_images": curve_images}
    if path.is_file():
        if read_json(path)["recipe"] != recipe:
            raise UserError(f"{path} is of other settings: delete it, or choose another --work")
        print(f"{name}: done before", flush=True)
        return
    print(f"{name}: {settings.steps} steps", flush=True)
    assert settings.root is not None
    folder = prepared_folder(settings.adapter, settings.root, settings.seed, work / f"seed{settings.seed}")
    provider = RealDatasetProvider(folder)
    size = settings.image_size
    images = training_images(provider, size, settings.penalty, settings.natural, settings.penalty_images)
    validation = stack_resized((item.image for item in provider.validation()), size)
    test = provider.test()
    chosen = [test[index] for index in spread(len(test), curve_images)]
    subset = stack_resized((item.image for item in chosen), size)
    defective = [item.label != GOOD for item in chosen]
    few = validation[spread(len(validation), CURVE_VALIDATION)]
    curve_path = state / "curve.json"

    def follow(model: EfficientAD, step: int) -> None:
        curve = [row for row in (read_json(curve_path) if curve_path.is_file() else []) if row["step"] < step]
        auroc = quick_auroc(model, few, subset, defective)
        print(f"{name}: step {step}, image AUROC {auroc:.3f} on {len(chosen)} test images", flush=True)
        write_json(curve_path, [*curve, {"step": step, "image_auroc": auroc}])

    started = time.monotonic()
    network = teacher.load(settings.model, settings.padding, settings.seed)
    trained = train_detector(settings, network, images, state, follow)
    calibration = calibrate_detector(settings, trained.model, provider)
    scored = score_test_images(trained.model, test, size, f"test {name}")
    result = {
        "recipe": recipe,
        "metrics": summarise(scored, calibration.threshold, settings.seed),
        "threshold": calibration.threshold,
        "train_images": len(images.normal),
        "validation_images": len(validation),
        "penalty_source": images.penalty_source,
        "curve": read_json(curve_path),
        "final_losses": dict(trained.history[-1]),
        "seconds_since_last_start": time.monotonic() - started,
    }
    detector = work / name
    detector.mkdir(parents=True, exist_ok=True)
    save_detector(
        detector,
        trained.model,
        detector_config(settings, network, calibration),
        recipe,
        calibration.record,
    )
    save_figures(
        {f"magnetic tiles, {teacher.name} teacher": scored}, calibration.threshold, detector / "figures"
    )
    write_json(path, result)
    shutil.rmtree(state)


def run_all(runs: Sequence[tuple[Teacher, TrainSettings, Path, int, int]], jobs: int) -> None:
    """Call `run_one` with each of the argument tuples, `jobs` at a time."""
    if jobs == 1:
        for run in runs:
            run_one(*run)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        started = [pool.submit(run_one, *run) for run in runs]
        try:
            for future in started:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # running ones finish, waiting ones are cancelled
            raise


def collect(work: Path, teachers: Sequence[Teacher], seeds: Sequence[int]) -> dict[str, Any]:
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
        section[f"{teacher.name}_teacher"] = entry
    baseline = section.get(f"{RANDOM}_teacher")
    if baseline is not None:
        section["gain_over_random_teacher"] = {
            name.removesuffix("_teacher"): {
                metric: entry["mean"][metric] - baseline["mean"][metric]
                for metric in ("image_auroc", "au_pro")
            }
            for name, entry in section.items()
            if entry is not baseline
        }
    return section


def main() -> None:
    """Run what is missing, then publish the results and draw the curves."""
    arguments = parse_arguments()
    set_threads()
    teachers = parse_teachers(arguments.teachers, arguments.model)
    work: Path = arguments.work
    runs = []
    for seed in arguments.seeds:
        # Before the runs, because they share it
        prepared_folder("magnetic_tile", arguments.raw, seed, work / f"seed{seed}")
        for teacher in teachers:
            settings = TrainSettings(
                output=work,
                source="real",
                adapter="magnetic_tile",
                root=arguments.raw,
                model=arguments.model,
                image_size=arguments.image_size,
                steps=arguments.steps,
                checkpoint_steps=-(-arguments.steps // arguments.points),
                natural=arguments.natural,
                penalty_images=arguments.penalty_images,
                learning_rate=arguments.learning_rate,
                hard_quantile=arguments.hard_quantile,
                seed=seed,
            )
            runs.append((teacher, settings, work, arguments.points, arguments.curve_images))
    run_all(runs, arguments.jobs)
    section = collect(work, teachers, arguments.seeds) | {
        "steps": arguments.steps,
        "learning_rate": arguments.learning_rate,
        "hard_quantile": arguments.hard_quantile,
        "image_size": arguments.image_size,
        "model": f"EfficientAD-{arguments.model}",
    }
    curves = {t.name: list(section[f"{t.name}_teacher"]["curve"].values()) for t in teachers}
    figure = steps_figure(curves, "image_auroc")
    figure.savefig(work / "image_auroc_by_step.png", dpi=100)
    plt.close(figure)
    publish(arguments.results, "tiles", figures_of(section, teachers), section)


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
    return figures


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("--raw", type=Path, default=Path("data/raw/Magnetic-tile-defect"))
    parser.add_argument("--natural", type=Path, help="photographs for the penalty (default: packaged ones)")
    parser.add_argument("--penalty-images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=4e-4, help="the paper: 1e-4")
    parser.add_argument("--hard-quantile", type=float, default=0.97, help="the paper: 0.999")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--model", choices=("S", "M"), default="S")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--teachers", nargs="+", default=[SHIPPED, RANDOM], metavar="TEACHER",
        help="shipped, random, or NAME=PATH such as short=teacher_short.safetensors",
    )  # fmt: skip
    parser.add_argument("--points", type=int, default=8, help="points of the curve, with a saved state each")
    parser.add_argument("--curve-images", type=int, default=136, help="test images per point of the curve")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs")
    parser.add_argument("--work", type=Path, default=Path("data/tiles"), help="runs, detectors and figures")
    add_results_argument(parser, "tiles")
    return parser.parse_args()


if __name__ == "__main__":
    main()
