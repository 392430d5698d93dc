"""`python -m benchmarks.precisions`: what each exported precision costs on real photographs.

Trains EfficientAD on a folder in any layout that `metaldefect train` reads, such as the magnetic tiles,
exports it, and scores the test images with the bundle in FP32, FP16 and INT8: the image AUROC that a
precision loses against FP32, and the share of images that it decides otherwise, also per kind of defect.
Each precision has its own threshold, as on the line. Where the CPU computes FP16 in bf16, its figures are
given under that name too; elsewhere bf16 is named as not measured. Writes
`benchmarks/results/precisions.json`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, add_results_argument, publish
from metaldefect.commands.settings import load_settings
from metaldefect.commands.sources import prepared_folder
from metaldefect.commands.train import run_training
from metaldefect.deploy.accuracy import against_fp32, beyond_limits, precision_accuracy
from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.deploy.runtime import Detector
from metaldefect.efficientad.evaluation import Scored, score_images
from metaldefect.errors import exit_on_user_error
from metaldefect.ingest.adapters import recognise
from metaldefect.inspection.provider import RealDatasetProvider

SEED = 0


def measure(root: Path, steps: int, folder: Path) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Train, export and score; `folder` receives everything that is made."""
    prepared = prepared_folder(recognise(root), root, SEED, folder / "work")
    settings = load_settings(
        None,
        {
            "source": "real",
            "root": prepared,
            "output": folder / "detector",
            "steps": steps,
            "image_size": 256,
            "channels": 1,
            "seed": SEED,
        },
    )
    trained = run_training(settings)
    test = RealDatasetProvider(prepared, 1).test()
    scored: dict[str, list[Scored]] = {}
    details: dict[str, Any] = {"steps": trained["steps"], "test_images": len(test)}
    for precision in PRECISIONS:
        detector = Detector.load(settings.output / "openvino", precision)
        scored[precision] = score_images(detector.detect, test, detector.image_size, f"score {precision}")
        found = precision_accuracy(scored[precision], detector.threshold)
        threshold = details.get("fp32", found)["threshold"]
        found |= against_fp32(scored[precision], detector.threshold, scored["fp32"], threshold)
        details[precision] = found | {"execution": detector.graph.execution}
    return summarise(details)


def summarise(details: dict[str, Any]) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Figures of the precisions in `details`, and details with `not_measured` where bf16 is not.

    Args:
        details: `against_fp32` and `execution` by precision.
    """
    figures: dict[str, Figure] = {"image_auroc_fp32": details["fp32"]["image_auroc"]}
    for precision in ("fp16", "int8"):
        figures |= cost_figures(precision, details[precision])
    execution = details["fp16"]["execution"]
    if execution == "bf16":
        return figures | cost_figures("bf16", details["fp16"]), details
    reason = f"this CPU computes FP16 in {execution}: measure on a CPU with bf16 units"
    return figures, details | {"not_measured": {"bf16": reason}}


def cost_figures(name: str, found: Mapping[str, Any]) -> dict[str, Figure]:
    """What a precision costs, as figures that carry its name."""
    return {
        f"auroc_drop_{name}": found["auroc_drop"],
        f"auroc_drop_{name}_worst_type": max(kind["auroc_drop"] for kind in found["by_type"].values()),
        f"changed_decisions_{name}": found["changed_decisions"],
    }


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precisions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path("data/raw/Magnetic-tile-defect"))
    parser.add_argument("--steps", type=int, default=600, help="of the training (default: %(default)s)")
    add_results_argument(parser, "precisions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, details = measure(arguments.root, arguments.steps, Path(folder))
    for name, reason in details.get("not_measured", {}).items():
        print(f"not measured: {name}: {reason}")
    publish(arguments.results, "precisions", figures, details)
    if breaches := beyond_limits(details):
        sys.exit("; ".join(breaches))


if __name__ == "__main__":
    with exit_on_user_error("benchmarks.precisions"):
        main()
