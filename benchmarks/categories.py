"""`python -m benchmarks.categories`: `metaldefect train` on whole folders of photographs, as a user types it.

By default on two real sets: magnetic tiles, and windows of hot-rolled steel strip (`strip_windows`). More
folders in any layout that `metaldefect train` reads can be named, such as a category of MVTec AD. Each is
trained for `--minutes` with the command's own defaults and scored beside a memory bank. Finished ones are
skipped. Writes `benchmarks/results/categories.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, Interval, add_results_argument, publish
from benchmarks.strip_windows import write_windows
from metaldefect.artifacts import atomic_directory, read_json
from metaldefect.commands.settings import load_settings
from metaldefect.commands.train import METRICS, run_training
from metaldefect.errors import exit_on_user_error

RAW = Path("data/raw")
TILES, STRIP = "magnetic_tile", "strip_windows"
REPORTED = ("image_auroc", "au_pro", "f1_at_threshold", "f1_max")
SEED = 0


def train_once(root: Path, output: Path, minutes: float | None, steps: int | None) -> dict[str, Any]:
    """Train on a folder, or read the metrics of a finished training."""
    if not (output / METRICS).is_file():
        limit = {"minutes": minutes} if steps is None else {"steps": steps}
        overrides = {"source": "real", "root": root, "output": output, "seed": SEED, **limit}
        run_training(load_settings(None, overrides))
    found: dict[str, Any] = read_json(output / METRICS)
    return found


def figures_of(name: str, metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """What the detector and the memory bank reached on one set, with 95 % intervals."""
    bank = metrics["memory_bank"]
    figures = {f"{name}_{metric}": with_interval(metrics, metric) for metric in REPORTED if metric in metrics}
    figures |= {
        f"{name}_memory_bank_{metric}": with_interval(bank, metric) for metric in REPORTED if metric in bank
    }
    return figures


def with_interval(metrics: Mapping[str, Any], name: str) -> Figure:
    """A metric as a figure."""
    low, high = metrics["interval_95"][name]
    return Interval(value=metrics[name], low=low, high=high)


def main() -> None:
    """Train on every set, then publish."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.categories",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--raw", type=Path, default=RAW, help="with the two default sets")
    parser.add_argument(
        "--more", nargs="*", default=[], metavar="NAME=FOLDER", help="more folders of images, with names"
    )
    parser.add_argument("--only", nargs="*", help="names of the sets to run (default: all)")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--work", type=Path, default=Path("data/categories"))
    add_results_argument(parser, "categories")
    arguments = parser.parse_args()
    strip = arguments.work / STRIP
    roots = {TILES: arguments.raw / "Magnetic-tile-defect", STRIP: strip}
    roots |= {name: Path(folder) for name, _, folder in (word.partition("=") for word in arguments.more)}
    if arguments.only is not None:
        roots = {name: root for name, root in roots.items() if name in arguments.only}
    if STRIP in roots and not strip.is_dir():
        with atomic_directory(strip) as folder:
            write_windows(arguments.raw / "SD-saliency-900", folder)
    figures: dict[str, Figure] = {}
    details: dict[str, Any] = {"minutes": arguments.minutes, "steps": arguments.steps}
    for name, root in roots.items():
        metrics = train_once(root, arguments.work / "detectors" / name, arguments.minutes, arguments.steps)
        print(f"{name}: {metrics['memory_bank']['verdict']}", flush=True)
        figures |= figures_of(name, metrics)
        kept = ("images", "scenes", "steps", "paper_score", "per_type", "calibration", "memory_bank")
        details[name] = {key: metrics[key] for key in kept if key in metrics}
    publish(arguments.results, "categories", figures, details)


if __name__ == "__main__":
    with exit_on_user_error("benchmarks.categories"):
        main()
