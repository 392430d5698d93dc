"""Stage `calibrate`: turn the trained networks into a detector with map scales and a threshold."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.efficientad.calibration import RIDGES, CalibrationImages, calibrate
from metaldefect.efficientad.model_files import calibrated, load_networks, save_detector
from metaldefect.efficientad.thresholds import Target
from metaldefect.inspection.provider import GeneratedDatasetProvider
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

NETWORKS = Path("models/efficientad")
INSPECTION = Path("data/merged/inspection")
INSERTED = Path("data/synthetic/inserted")
OUTPUT = Path("models/detector")
METRICS = Path("metrics/calibrate.json")


def main(params: Params, run: StageRun) -> None:
    """Choose map scales, map weights and threshold on validation normals and inserted defects only."""
    model, networks, training = load_networks(NETWORKS)
    provider = GeneratedDatasetProvider(INSPECTION, INSERTED, networks.channels)
    images = CalibrationImages.of(provider.validation(), provider.defects(), networks.image_size)
    ridges = RIDGES if params.calibrate.residual_metric == "choose" else ()
    calibration = calibrate(model, images, Target.of(params.calibrate), ridges)
    with atomic_directory(OUTPUT) as folder:
        save_detector(folder, model, calibrated(networks, calibration), training, calibration)
    threshold = calibration.record["threshold"]
    print(f"threshold: {threshold['method']}; {threshold['support']}")
    write_json(METRICS, calibration.record)
    run.log_metrics(calibration.record)


if __name__ == "__main__":
    run_stage("calibrate", main)
