"""The validation curve: who is looked at, which state is kept, when a training stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metaldefect.efficientad import validation_curve
from metaldefect.efficientad.calibration import CalibrationImages
from metaldefect.efficientad.held_out import hold_out
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.efficientad.validation_curve import ValidationCurve, is_flat
from metaldefect.inspection.painted import paint_defects
from metaldefect.inspection.provider import InspectionImages
from metaldefect.inspection.synthetic import SyntheticCounts, SyntheticDatasetProvider


class Few(SyntheticDatasetProvider):
    """Procedural metal with a chosen number of canvases."""

    def __init__(self, canvases: int) -> None:
        super().__init__(0, SyntheticCounts(1, 6, 1, 1), 128)
        self.number = canvases

    def canvases(self) -> InspectionImages:
        return super().canvases()[: self.number]


def test_no_scene_serves_both_the_curve_and_the_calibration() -> None:
    found = hold_out(Few(6), 128, seed=0)
    assert found.curve is not None
    curve, calibration = (
        {*images.scenes, *images.defect_scenes} for images in (found.curve, found.calibration)
    )
    assert not curve & calibration
    assert len(found.curve.normals) == 3
    assert len(found.calibration.normals) == 6 + 3, "clean canvases support the threshold"
    assert set(found.calibration.defect_scenes) <= set(found.calibration.scenes[6:])
    assert min(len(found.curve.defects), len(found.calibration.defects)) >= 20
    judges, which = found.calibration.judges()
    assert (len(judges), which) == (9, "the normals"), "six other normals are too few to choose by"


@pytest.mark.parametrize("canvases", [0, 1])
def test_too_few_good_images_for_a_curve_are_named(canvases: int) -> None:
    found = hold_out(Few(canvases), 128, seed=0)
    assert found.curve is None
    assert found.note == f"{canvases} good images to insert defects into: too few for a validation curve"
    assert (len(found.calibration.defects) > 0) == bool(canvases)


def test_painted_defects_can_be_seen_inside_their_masks_only() -> None:
    normals = list(Few(6).canvases()[:2])
    painted, again = (paint_defects(normals, 128, 12, seed=1) for _ in range(2))
    assert len(painted) == 12, "others take the place of those that nobody could see"
    scenes = {item.scene: item.image for item in normals}
    for item, same in zip(painted, again, strict=True):
        np.testing.assert_array_equal(item.image, same.image)
        assert item.mask is not None
        change = np.abs(item.image.astype(int) - scenes[item.scene])
        assert change[item.mask].mean() > 5 * change[~item.mask].mean()


def run_curve(folder: Path, aurocs: list[float], monkeypatch: pytest.MonkeyPatch) -> ValidationCurve:
    """A training of 10 steps per point; the model's threshold constant holds the step that it is of."""
    images = CalibrationImages(np.zeros((1, 8, 8), np.uint8), ["n"], np.zeros((1, 8, 8), np.uint8), ["d"])
    curve = ValidationCurve(images, folder, lambda step: step / (10 * len(aurocs)))
    model = EfficientAD("S").eval()
    for number, auroc in enumerate(aurocs, 1):
        monkeypatch.setattr(
            validation_curve, "measure", lambda *_, a=auroc: {"image_auroc": a, "student": 1.0}
        )
        model.teacher_mean.fill_(10 * number)
        if curve(model, 10 * number):
            break
    return curve


def test_the_best_state_is_kept_and_of_nearly_equal_ones_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = run_curve(tmp_path, [0.6, 0.9, 0.895, 0.7], monkeypatch)
    model = EfficientAD("S").eval()
    assert curve.restore_best(model) == 30
    assert torch.equal(model.teacher_mean, torch.full_like(model.teacher_mean, 30.0))
    assert len(list(tmp_path.glob("best_*"))) == 1
    resumed = ValidationCurve(curve.images, tmp_path, lambda step: step / 40)
    assert resumed.restore_best(model) == 30, "a resumed training knows its best state"


def test_points_are_a_sixteenth_of_the_budget_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = run_curve(tmp_path, [0.5 + k / 100 for k in range(48)], monkeypatch)
    assert [row["step"] for row in curve.rows] == [30.0 * k for k in range(1, 17)]


def test_a_flat_curve_stops_the_training_but_never_in_the_first_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = run_curve(tmp_path, [0.7] * 16, monkeypatch)
    assert curve.stopped_flat
    assert curve.rows[-1]["step"] == 80


def rows(aurocs: list[float]) -> list[dict[str, float]]:
    return [{"progress": (k + 1) / len(aurocs), "image_auroc": auroc} for k, auroc in enumerate(aurocs)]


def test_a_curve_whose_defects_are_all_found_does_not_stop() -> None:
    assert is_flat(rows([0.8] * 10))
    assert not is_flat(rows([1.0] * 10)), "it cannot tell whether longer training pays"
    assert not is_flat(rows([0.5 + k / 20 for k in range(10)]))
