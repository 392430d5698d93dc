"""The validation curve of a training: painted defects against normals, the best state, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from metaldefect.artifacts import read_json, write_json
from metaldefect.efficientad.calibration import (
    STUDENT_SHARES,
    CalibrationImages,
    fit_map_quantiles,
    maps_of,
    share_scores,
)
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.hardware import autocast, device_of
from metaldefect.kernels.switch import cpu_kernels, is_on_cpu

POINTS = 16
# With so few images, smaller differences are noise: of nearly equal states the later one is kept.
NOISE = 0.01
# A training is flat if this many points in a row gained less than `NOISE`.
PATIENCE = 6
EARLIEST_STOP = 0.5  # of the budget
# Above this, nearly all painted defects are found and cannot tell whether longer training pays.
SATURATED = 0.99

Row = dict[str, float]


class ValidationCurve:
    """Measures a detector while it trains; pass it to `training.train` as `after_epoch`.

    Its state lies in a folder, so a resumed training goes on with it.

    Args:
        images: normals and painted defects that neither training nor calibration uses.
        folder: for the curve and the best state.
        progress: share of the training's budget that is used up, by step.

    Attributes:
        rows: `step`, `image_auroc` and the student-teacher map's share (`student`) that reached it.
        stopped_flat: whether the curve ended the training.
    """

    def __init__(self, images: CalibrationImages, folder: Path, progress: Callable[[int], float]) -> None:
        self.images, self.folder, self.progress = images, folder, progress
        self.path = folder / "curve.json"
        self.rows: list[Row] = read_json(self.path) if self.path.is_file() else []
        self.stopped_flat = False

    def __call__(self, model: EfficientAD, step: int) -> bool:
        """Add a point if one is due; returns whether to stop the training."""
        self.rows = [row for row in self.rows if row["step"] < step]
        progress = self.progress(step)
        if progress - (self.rows[-1]["progress"] if self.rows else 0.0) < 1 / POINTS and progress < 1:
            return False
        row = {"step": float(step), "progress": round(progress, 4), **measure(model, self.images)}
        self.rows.append(row)
        kept = self.kept_step()
        if kept == step:
            self._save(model, step)
        write_json(self.path, self.rows)
        best = "kept" if kept == step else f"step {kept} stays the best"
        print(f"step {step}: image AUROC {row['image_auroc']:.3f} on painted defects, {best}", flush=True)
        self.stopped_flat = is_flat(self.rows)
        return self.stopped_flat

    def kept_step(self) -> int:
        """The latest step whose AUROC is within `NOISE` of the highest one."""
        highest = max(row["image_auroc"] for row in self.rows)
        return int(max(row["step"] for row in self.rows if row["image_auroc"] >= highest - NOISE))

    def restore_best(self, model: EfficientAD) -> int | None:
        """Load the best state into the model and return its step; None if no point was measured."""
        state = self._state(self.kept_step()) if self.rows else None
        if state is None or not state.is_file():
            return None
        model.load_state_dict(load_file(state))
        return self.kept_step()

    def _state(self, step: int) -> Path:
        return self.folder / f"best_{step}.safetensors"

    def _save(self, model: EfficientAD, step: int) -> None:
        before = list(self.folder.glob("best_*.safetensors"))
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, self._state(step))
        for path in before:
            if path != self._state(step):
                path.unlink()


@torch.inference_mode()
def measure(model: EfficientAD, images: CalibrationImages) -> Row:
    """Image AUROC of the defects against the normals with the best weights of the two maps.

    In the machine's fastest precision; leaves the model's scales as they were.
    """
    scales = model.quantiles.clone()
    with autocast(device_of(model)), cpu_kernels(model, enabled=is_on_cpu(model)):
        normal_maps, defect_maps = fit_map_quantiles(model, images.normals), maps_of(model, images.defects)
    truth = np.repeat([False, True], [len(normal_maps), len(defect_maps)])
    aurocs = {
        share: float(roc_auc_score(truth, share_scores(model, [*normal_maps, *defect_maps], share)))
        for share in STUDENT_SHARES
    }
    model.quantiles.copy_(scales)
    best = max(aurocs, key=lambda share: aurocs[share])
    return {"image_auroc": round(aurocs[best], 6), "student": best}


def is_flat(rows: list[Row]) -> bool:
    """Whether the last points gained nothing, late enough and before all defects were found."""
    if len(rows) <= PATIENCE or rows[-1]["progress"] < EARLIEST_STOP:
        return False
    before, after = (max(row["image_auroc"] for row in part) for part in (rows[:-PATIENCE], rows[-PATIENCE:]))
    return max(before, after) < SATURATED and after < before + NOISE


def record(curve: ValidationCurve | None, kept: int | None, note: str) -> dict[str, Any]:
    """The curve for `metrics.json`: rows, the step that was kept, and why the training ended."""
    if curve is None or not curve.rows:
        return {"note": note or "no point was measured"}
    found: dict[str, Any] = {
        "normals": len(curve.images.normals),
        "painted_defects": len(curve.images.defects),
        "kept_step": kept,
        "stopped_flat": curve.stopped_flat,
        "points": [{name: row[name] for name in ("step", "image_auroc", "student")} for row in curve.rows],
    }
    if max(row["image_auroc"] for row in curve.rows) >= SATURATED:
        found["note"] = "nearly all painted defects are found: they cannot tell whether longer training pays"
    return found
