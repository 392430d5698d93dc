"""`python -m benchmarks.efficientad_synthetic`: train a detector for procedural metal in minutes.

Trains on normal procedural images and tests on others with scratches, contamination and misplaced objects.
A killed run resumes if `--output` is the same. Writes `benchmarks/results/efficientad_synthetic.json`; the
last line printed is JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.pipeline import figure_at
from benchmarks.results import add_results_argument, publish
from metaldefect.commands.settings import SyntheticSettings, TrainSettings
from metaldefect.commands.train import run_training

KEPT = ("image_auroc", "image_ap", "f1_max", "f1_at_threshold", "pixel_auroc", "au_pro")


def main() -> None:
    """Train, test and publish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.efficientad_synthetic", description=__doc__)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="keep the detector and its figures in this folder")
    add_results_argument(parser, "efficientad_synthetic")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        settings = TrainSettings(
            output=arguments.output or Path(temporary) / "detector",
            source="synthetic",
            image_size=arguments.image_size,
            steps=arguments.steps,
            seed=arguments.seed,
            synthetic=SyntheticSettings(train=400, validation=60, test_normal=100, test_anomalies=40),
        )
        started = time.monotonic()
        metrics = run_training(settings)
        seconds = time.monotonic() - started
    figures = {key: figure_at(metrics, key) for key in KEPT}
    figures["seconds"] = seconds  # covers drawing, training, calibration, test and figures
    details = {key: metrics[key] for key in ("images", "train_images", "per_type")}
    details |= {"steps": arguments.steps, "image_size": arguments.image_size}
    publish(arguments.results, "efficientad_synthetic", figures, details)


if __name__ == "__main__":
    main()
