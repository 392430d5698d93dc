"""What `benchmarks.tiles` measures of a training: minutes, the curve, every choice of the calibration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from metaldefect.artifacts import read_json, write_json
from metaldefect.efficientad.calibration import (
    PAPER_SCORE,
    PAPER_SHARE,
    RIDGES,
    STUDENT_SHARES,
    CalibrationImages,
    calibrate,
    maps_of,
    set_map_quantiles,
    share_scores,
)
from metaldefect.efficientad.held_out import HeldOut
from metaldefect.efficientad.residual_metric import cross_fitted_maps, describe, maps_with, whitening
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.images import ImageSize, height_and_width, resize
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import InspectionImage
from metaldefect.kernels.switch import cpu_kernels, is_on_cpu
from metaldefect.metrics import detection


class Minutes:
    """Minutes that a run took, over all its resumed parts; what came after the last checkpoint is lost.

    Args:
        path: where the minutes of earlier parts lie.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.started = path, time.monotonic()
        self.before = float(read_json(path)["minutes"]) if path.is_file() else 0.0

    @property
    def total(self) -> float:
        """So far."""
        return self.before + (time.monotonic() - self.started) / 60

    def save(self) -> None:
        """Keep them for a resumed run."""
        write_json(self.path, {"minutes": self.total})


def curve_point(
    model: EfficientAD, held_out: HeldOut, test: Sequence[InspectionImage], size: ImageSize
) -> dict[str, float]:
    """Image AUROC on test tiles: after a calibration, by the paper's weights, and by each map alone.

    Also the weight that the calibration gave the student-teacher map.
    """
    with cpu_kernels(model, enabled=is_on_cpu(model)):
        share = calibrate(model, held_out.calibration, Target()).student_share
        maps = [maps_of(model, resize(item.image, size)[None])[0] for item in test]
    labels = [item.label != GOOD for item in test]
    aurocs = {
        name: detection.auroc(share_scores(model, maps, part), labels)
        for name, part in (
            ("image_auroc", share),
            ("image_auroc_paper", PAPER_SHARE),
            ("image_auroc_student_alone", 1.0),
            ("image_auroc_autoencoder_alone", 0.0),
        )
    }
    return {**aurocs, "student_share": share}


def measure_choices(
    model: EfficientAD, images: CalibrationImages, test: Sequence[InspectionImage], size: ImageSize
) -> list[dict[str, float]]:
    """Image AUROC of each choice of the calibration, on painted defects and on the test tiles.

    One row per metric of the residual (`ridge`; 0: the paper's) and weight of the student-teacher map
    (`student_share`). As in a calibration, a painted defect is never measured with a covariance of its own
    scene; test tiles are measured with that of all held-out normals. Leaves the model's scales changed.
    """
    judges, _ = images.judges()
    fitted, covariance = cross_fitted_maps(
        model, images.normals, images.scenes, images.defects, images.defect_scenes, RIDGES
    )
    fitted[PAPER_SCORE] = maps_of(model, images.normals), maps_of(model, images.defects)
    weights = {ridge: whitening(covariance, ridge) for ridge in RIDGES}
    weights[PAPER_SCORE] = torch.eye(len(covariance), dtype=torch.float64)
    labels = [item.label != GOOD for item in test]
    scales = {}
    scores: dict[tuple[float, float], list[float]] = {
        (ridge, share): [] for ridge in sorted(weights) for share in STUDENT_SHARES
    }
    for ridge, (normals, _) in fitted.items():
        set_map_quantiles(model, normals)
        scales[ridge] = model.quantiles.clone()
    for item in tqdm(test, desc="test every choice", unit="image"):
        with torch.inference_mode(), cpu_kernels(model, enabled=is_on_cpu(model)):
            described = describe(model, resize(item.image, size))
        for ridge, matrix in weights.items():
            pair = maps_with(described, matrix, height_and_width(size))
            model.quantiles.copy_(scales[ridge])
            for share in STUDENT_SHARES:
                scores[ridge, share].append(float(share_scores(model, [pair], share)[0]))
    rows = []
    for (ridge, share), values in scores.items():
        model.quantiles.copy_(scales[ridge])
        good, bad = (share_scores(model, maps, share) for maps in fitted[ridge])
        painted = np.concatenate([good[judges], bad])
        truth = np.repeat([False, True], [len(judges), len(bad)])
        row = {"ridge": ridge, "student_share": share, "painted": detection.auroc(painted, truth)}
        rows.append({**row, "test": detection.auroc(values, labels)})
    return rows
