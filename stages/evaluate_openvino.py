"""Stage `evaluate_openvino`: parity of the exported files with torch, accuracy per precision, and latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.deploy.accuracy import against_fp32, beyond_limits, precision_accuracy
from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.deploy.export import parity
from metaldefect.deploy.figures import accuracy_figure
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.deploy.latency import measure_latency
from metaldefect.deploy.runtime import Detector
from metaldefect.efficientad.evaluation import Scored, rounded, score_images
from metaldefect.efficientad.model_files import load_detector
from metaldefect.errors import UserError
from metaldefect.hardware import cpu_name
from metaldefect.images import stack_resized
from metaldefect.inspection.provider import RealDatasetProvider
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

DETECTOR = Path("models/detector")
EXPORT = Path("models/openvino")
INSPECTION = Path("data/merged/inspection")
METRICS = Path("metrics/evaluate_openvino.json")
# Kept apart from the other metrics: latencies differ from run to run.
LATENCY = Path("metrics/latency.json")
PLOTS = Path("plots/evaluate_openvino")
SIZED = (".onnx", ".xml", ".bin")


def main(params: Params, run: StageRun) -> None:
    """Measure each precision.

    Raises:
        UserError: the exported files do not compute what torch computes, or a bundle fails its self-test.
    """
    section = params.evaluate_openvino
    model, config = load_detector(DETECTOR)
    provider = RealDatasetProvider(INSPECTION, config.channels)
    test = provider.test()
    shown = test or provider.validation()
    indices = np.linspace(0, len(shown) - 1, section.parity_images).round().astype(int)
    images = [shown[int(index)].image for index in indices]
    errors = parity(InspectionGraph(model, config.image_size, config.levels, config.channels), EXPORT, images)
    if errors["max_abs_error"] > section.max_parity_error:
        raise UserError(
            f"the exported detector differs from the trained one by {errors['max_abs_error']:.2e},"
            f" more than evaluate_openvino.max_parity_error {section.max_parity_error:.2e}: {errors}"
        )
    accuracy: dict[str, Any] = {}
    latency: dict[str, Any] = {"machine": cpu_name()}
    scored: dict[str, list[Scored]] = {}
    frames = stack_resized(images, config.image_size)
    for precision in PRECISIONS:
        detector = Detector.load(EXPORT, precision)
        scored[precision] = score_images(detector.detect, test, config.image_size, f"score {precision}")
        accuracy[precision] = precision_accuracy(scored[precision], detector.threshold)
        accuracy[precision] |= {
            "execution": detector.graph.execution,
            **against_fp32(
                scored[precision], detector.threshold, scored["fp32"], accuracy["fp32"]["threshold"]
            ),
        }
        latency[precision] = measure_latency(detector, frames, section.latency_frames)
    sizes = {path.name: path.stat().st_size for path in sorted(EXPORT.iterdir()) if path.suffix in SIZED}
    breaches = beyond_limits(accuracy)
    for breach in breaches:
        print(f"note: {breach}: use another precision on the line")
    metrics = {"parity": errors, **rounded(accuracy), "beyond_limits": breaches, "bytes": sizes}
    write_json(METRICS, metrics)
    write_json(LATENCY, latency)
    figure = accuracy_figure(accuracy, sizes)
    with atomic_directory(PLOTS) as folder:
        figure.savefig(folder / "accuracy_and_size_by_precision.png", dpi=100)
    run.log_metrics(metrics)
    run.log_metrics(latency, "latency.")
    run.log_figure(figure, "accuracy_and_size_by_precision.png")


if __name__ == "__main__":
    run_stage("evaluate_openvino", main)
