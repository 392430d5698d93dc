"""`python -m benchmarks.efficientad_synthetic`: a detector for procedural metal, trained in minutes.

Trains on normal procedural images, tests on others with scratches, contamination and misplaced objects,
and prints one line of JSON last. A run that was killed goes on when `--output` is the same.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path

from metaldefect.commands.settings import SyntheticSettings, TrainSettings
from metaldefect.commands.train import run_training
from metaldefect.hardware import cpu_name

KEPT = ("image_auroc", "image_ap", "f1_max", "f1_at_threshold", "pixel_auroc", "au_pro", "per_type")


def main() -> None:
    """Train, test, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.efficientad_synthetic", description=__doc__)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="keep the detector and its figures in this folder")
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
    result = {
        **{key: metrics[key] for key in KEPT},
        "interval_95": metrics["interval_95"],
        "images": metrics["images"],
        "train_images": metrics["train_images"],
        "steps": arguments.steps,
        "image_size": arguments.image_size,
        "seconds": seconds,  # drawing, training, calibration, test and figures
        "command": "python -m benchmarks.efficientad_synthetic " + shlex.join(sys.argv[1:]),
        "machine": cpu_name(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
