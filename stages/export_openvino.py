"""Stage `export_openvino`: the detector as ONNX and OpenVINO files, their parity, accuracy and latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from metaldefect.errors import UserError

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.deploy.export import (
    ONNX,
    PRECISIONS,
    export_onnx,
    export_openvino,
    graph_file,
    parity,
    write_metadata,
)
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.deploy.latency import measure_latency
from metaldefect.deploy.runtime import Detector, compile_graph
from metaldefect.efficientad.evaluation import rounded, score_images
from metaldefect.efficientad.model_files import load_detector
from metaldefect.hardware import cpu_name
from metaldefect.images import U8, stack_resized
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.metrics.detection import auroc, f1_at
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import keyed_generator, paint_anomaly
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

DETECTOR = Path("models/efficientad")
INSPECTION = Path("data/merged/inspection")
OUTPUT = Path("models/openvino")
METRICS = Path("metrics/export_openvino.json")
# Apart from the other metrics: these differ from run to run.
LATENCY = Path("metrics/latency.json")
PLOTS = Path("plots/export_openvino")
PAINTED_INTERVAL = 4


def main(params: Params, run: StageRun) -> None:
    """Export, refuse files that do not compute what torch computes, and measure each precision."""
    section = params.export_openvino
    model, config = load_detector(DETECTOR)
    provider = RealDatasetProvider(INSPECTION)
    normal = stack_resized(
        (item.image for item in provider.train()[: section.calibration_images]), config.image_size
    )
    calibration = with_painted_anomalies(normal, params.seed)
    validation = stack_resized((item.image for item in provider.validation()), config.image_size)
    test = provider.test()
    graph = InspectionGraph(model)
    with atomic_directory(OUTPUT) as folder:
        export_onnx(graph, config.image_size, folder / ONNX)
        export_openvino(folder / ONNX, folder, calibration)
        indices = np.linspace(0, len(test) - 1, section.parity_images).round().astype(int)
        frames = stack_resized((test[int(index)].image for index in indices), config.image_size)
        errors = parity(graph, folder, frames)
        if errors["max_abs_error"] > section.max_parity_error:
            raise UserError(
                f"the exported detector differs from the trained one by {errors['max_abs_error']:.2e},"
                f" more than export_openvino.max_parity_error {section.max_parity_error:.2e}: {errors}"
            )
        thresholds = {
            precision: calibrate(folder, precision, validation, config.threshold_quantile)
            for precision in PRECISIONS
        }
        write_metadata(folder, config, thresholds)
    accuracy: dict[str, Any] = {}
    latency: dict[str, Any] = {"machine": cpu_name()}
    for precision in PRECISIONS:
        detector = Detector.load(OUTPUT, precision)
        scored = score_images(detector.detect, test, config.image_size, f"score {precision}")
        scores, labels = [item.score for item in scored], [item.is_defective for item in scored]
        accuracy[precision] = {
            "image_auroc": auroc(scores, labels),
            "f1_at_threshold": f1_at(scores, labels, detector.threshold),
            "threshold": detector.threshold,
        }
        latency[precision] = measure_latency(detector, frames, section.latency_frames)
    sizes = {path.name: path.stat().st_size for path in sorted(OUTPUT.iterdir()) if path.suffix != ".json"}
    metrics = {"parity": errors, **rounded(accuracy), "bytes": sizes}
    write_json(METRICS, metrics)
    write_json(LATENCY, latency)
    figure = accuracy_figure(accuracy, sizes)
    with atomic_directory(PLOTS) as folder:
        figure.savefig(folder / "accuracy_and_size_by_precision.png", dpi=100)
    run.log_metrics(metrics)
    run.log_metrics(latency, "latency.")
    run.log_figure(figure, "accuracy_and_size_by_precision.png")


def with_painted_anomalies(images: U8, seed: int) -> U8:
    """Normal images `uint8 [N, S, S]`, one in four with something painted onto it, procedurally.

    INT8 holds only the range that its calibration images show, and defects lie beyond what normal ones do.
    """
    painted = images.copy()
    kinds = list(ANOMALIES)
    for index in range(0, len(images), PAINTED_INTERVAL):
        kind = kinds[index // PAINTED_INTERVAL % len(kinds)]
        rng = keyed_generator(seed, "int8 calibration", index)
        painted[index], _ = paint_anomaly(kind, rng, images[index])
    return painted


def calibrate(folder: Path, precision: str, validation: U8, quantile: float) -> float:
    """The threshold of a precision: the quantile of its own scores on the validation normals."""
    detector = Detector(
        compile_graph(folder / graph_file(precision), precision), validation.shape[1], 0, precision
    )
    return float(np.quantile([detector.detect(image)[0] for image in validation], quantile))


def accuracy_figure(accuracy: dict[str, Any], sizes: dict[str, int]) -> Figure:
    """Image AUROC and file size by precision."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
    names = list(accuracy)
    bars = left.bar(names, [accuracy[name]["image_auroc"] for name in names], color="tab:blue")
    left.bar_label(bars, fmt="%.3f")
    left.set(title="Image AUROC", ylim=(0, 1.1))
    megabytes = [sizes[Path(graph_file(name)).with_suffix(".bin").name] / 1e6 for name in names]
    bars = right.bar(names, megabytes, color="tab:orange")
    right.bar_label(bars, fmt="%.1f")
    right.set(title="Weights (MB)")
    right.margins(y=0.15)
    return figure


if __name__ == "__main__":
    run_stage("export_openvino", main)
