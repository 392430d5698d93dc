"""Stage `export_openvino`: the detector as a bundle of ONNX and OpenVINO files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from metaldefect.artifacts import atomic_directory, sha256_file
from metaldefect.deploy.bundle import Lineage, hashes
from metaldefect.deploy.calibration import with_painted_anomalies
from metaldefect.deploy.export import export_bundle
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.deploy.reference import add_reference
from metaldefect.efficientad.model_files import WEIGHTS, load_detector
from metaldefect.efficientad.torch_model import infer
from metaldefect.images import stack_resized
from metaldefect.inspection.provider import RealDatasetProvider
from pipeline.params import Params
from pipeline.run import StageRun, git_commit, run_stage

DETECTOR = Path("models/detector")
INSPECTION = Path("data/merged/inspection")
OUTPUT = Path("models/openvino")


def main(params: Params, run: StageRun) -> None:
    """Write the files of every precision, each with a threshold from its own validation scores."""
    model, config = load_detector(DETECTOR)
    provider = RealDatasetProvider(INSPECTION, config.channels)
    normal = stack_resized(
        (item.image for item in provider.train()[: params.export_openvino.calibration_images]),
        config.image_size,
    )
    validation = stack_resized((item.image for item in provider.validation()), config.image_size)
    used = {split: hashes(INSPECTION / split) for split in ("train", "validation")}
    lineage = Lineage(
        model_sha256=sha256_file(DETECTOR / WEIGHTS),
        data_sha256=hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest(),
        git_commit=git_commit(),
        mlflow_run=run.run_id,
    )
    graph = InspectionGraph(model, config.image_size, config.levels, config.channels)
    ranges = with_painted_anomalies(normal, params.seed)
    # Not the calibration's: a covariance that was fitted to these images scores them lower than new ones
    known = [infer(model, image)[0] for image in validation]
    with atomic_directory(OUTPUT) as folder:
        export_bundle(
            graph, config, folder, ranges, validation, known, lineage,
            max_auroc_drop=params.export_openvino.max_auroc_drop,
            real_golden_frames=params.export_openvino.real_golden_frames,
        )  # fmt: skip
        add_reference(folder, (item.image for item in provider.validation()))


if __name__ == "__main__":
    run_stage("export_openvino", main)
