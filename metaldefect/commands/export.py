"""Put ONNX and OpenVINO files of a freshly trained detector beside its weights."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metaldefect.artifacts import sha256_file
from metaldefect.deploy.bundle import PRECISIONS, Lineage
from metaldefect.deploy.calibration import with_painted_anomalies
from metaldefect.deploy.export import export_bundle
from metaldefect.deploy.graph import InspectionGraph
from metaldefect.deploy.reference import add_reference
from metaldefect.deploy.runtime import Detector
from metaldefect.efficientad.calibration import Calibration, CalibrationImages, Scores
from metaldefect.efficientad.model_files import TRAINED, WEIGHTS, DetectorConfig, write_scores
from metaldefect.efficientad.thresholds import transfer
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.images import U8
from metaldefect.inspection.provider import InspectionImages
from metaldefect.training.data import Images
from metaldefect.training.resume import content_digest

EXPORTED = "openvino"
PACKAGE = Path(__file__).parents[1]
RANGE_IMAGES = 64  # set the ranges of INT8


def export_beside(
    folder: Path,
    model: EfficientAD,
    config: DetectorConfig,
    calibration: Calibration,
    images: CalibrationImages,
    normal: Images,
    unseen: InspectionImages,
    seed: int,
    real_golden_frames: bool = True,
) -> None:
    """Write `openvino/` into a detector's folder, and every precision's scores of the calibration images.

    Args:
        folder: holds the detector.
        model: the calibrated detector.
        config: its configuration.
        calibration: its calibration, with the scores of the calibration images.
        images: the calibration images.
        normal: training images that set the ranges of INT8.
        unseen: whole normal images that the detector was not trained on: what drift is measured against.
        seed: of the anomalies painted on some of them.
        real_golden_frames: the bundle may hold calibration images.
    """
    bundle = folder / EXPORTED
    bundle.mkdir()
    deployed = calibration.deployed
    ranges = np.stack([normal[index] for index in range(min(len(normal), RANGE_IMAGES))])
    export_bundle(
        InspectionGraph(model, config.image_size, config.levels, config.channels),
        config,
        bundle,
        with_painted_anomalies(ranges, seed),
        images.normals,
        deployed.normals if config.tiles is None else [infer(model, image)[0] for image in images.normals],
        Lineage(
            model_sha256=sha256_file(folder / WEIGHTS),
            data_sha256=data_sha256(normal, images),
            git_commit=code_commit(),
        ),
        max_auroc_drop=math.inf,  # accuracy control takes minutes that the caller has not planned
        real_golden_frames=real_golden_frames,
    )
    add_reference(bundle, (item.image for item in unseen))
    scores = {TRAINED: calibration.scores}
    for precision in PRECISIONS:
        detector = Detector.load(bundle, precision)
        found = scores_of(detector, images.normals), scores_of(detector, images.defects)
        scores[precision] = as_of_new_images(images.whole_scores(*found), calibration)
    write_scores(folder, scores)


def as_of_new_images(exported: Scores, calibration: Calibration) -> Scores:
    """An exported graph's scores of the calibration images, as if it had not been fitted to them."""
    new, fitted = calibration.scores, calibration.deployed
    return Scores(
        (np.array(exported.normals) + new.normals - np.array(fitted.normals)).tolist(),
        exported.scenes,
        (np.array(exported.defects) + new.defects - np.array(fitted.defects)).tolist(),
    )


def data_sha256(train: Images, held_out: CalibrationImages) -> str:
    """SHA-256 of the pixels that a detector was trained and calibrated with."""
    return content_digest({"train": train, "normals": held_out.normals, "defects": held_out.defects})


def code_commit(package: Path = PACKAGE) -> str | None:
    """The commit of a package's code, with the suffix `-dirty` if its files differ; None without git.

    An installed package may lie inside another project's repository, which does not have its files.
    """

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True)

    if shutil.which("git") is None or git("ls-files", "--error-unmatch", "--", ".").returncode:
        return None
    head = git("rev-parse", "--verify", "--quiet", "HEAD")
    if head.returncode:
        return None
    dirty = git("diff", "--quiet", "HEAD", "--", ".").returncode != 0
    return head.stdout.strip() + ("-dirty" if dirty else "")


def scores_of(detector: Detector, images: U8) -> list[float]:
    """Scores of images `uint8 [N, H, W]` or `[N, H, W, 3]`."""
    return [score for score, _ in map(detector.detect, images)]


def precision_thresholds(threshold: float, scores: Mapping[str, Scores]) -> dict[str, float]:
    """The threshold of each exported precision that flags what `threshold` flags in the trained networks."""
    known = scores[TRAINED]
    return {
        precision: transfer(threshold, [*known.normals, *known.defects], [*found.normals, *found.defects])
        for precision, found in scores.items()
        if precision != TRAINED
    }
