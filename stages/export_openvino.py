"""Stage `export_openvino`: the detector as ONNX and OpenVINO files."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import atomic_directory
from metaldefect.deploy.calibration import choose_threshold, with_painted_anomalies
from metaldefect.deploy.export import ONNX, PRECISIONS, export_onnx, export_openvino, write_metadata
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.efficientad.model_files import load_detector
from metaldefect.images import stack_resized
from metaldefect.inspection.provider import RealDatasetProvider
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

DETECTOR = Path("models/detector")
INSPECTION = Path("data/merged/inspection")
OUTPUT = Path("models/openvino")


def main(params: Params, _run: StageRun) -> None:
    """Write the files of every precision, each with a threshold from its own validation scores."""
    model, config = load_detector(DETECTOR)
    provider = RealDatasetProvider(INSPECTION)
    normal = stack_resized(
        (item.image for item in provider.train()[: params.export_openvino.calibration_images]),
        config.image_size,
    )
    validation = stack_resized((item.image for item in provider.validation()), config.image_size)
    with atomic_directory(OUTPUT) as folder:
        export_onnx(InspectionGraph(model), config.image_size, folder / ONNX)
        export_openvino(folder / ONNX, folder, with_painted_anomalies(normal, params.seed))
        thresholds = {
            precision: choose_threshold(folder, precision, validation, config.threshold_quantile)
            for precision in PRECISIONS
        }
        write_metadata(folder, config, thresholds)


if __name__ == "__main__":
    run_stage("export_openvino", main)
