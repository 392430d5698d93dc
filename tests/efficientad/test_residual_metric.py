"""The residual's covariance as a metric: folded exactly, fitted on other scenes, chosen by defects."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from metaldefect.efficientad import calibration
from metaldefect.efficientad.calibration import (
    PAPER_SCORE,
    PAPER_SHARE,
    RIDGES,
    CalibrationImages,
    PapersScore,
    calibrate,
    choose_metric,
    with_papers_score,
)
from metaldefect.efficientad.evaluation import Scored, papers_metrics
from metaldefect.efficientad.residual_metric import (
    Moments,
    cross_fitted_maps,
    fold_metric,
    folds_of,
    whitening,
)
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.torch_model import FEATURES, LAYERS, EfficientAD, infer
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD
from tests.slim_detector import SLIM


def test_the_folded_network_gives_the_quadratic_form() -> None:
    torch.manual_seed(0)
    model = EfficientAD("S").eval()
    model.teacher_mean.normal_()
    model.teacher_std.uniform_(0.5, 2.0)
    images = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        teacher = model.normalised_teacher(images).numpy().astype(np.float64)
        student = model.student(images).numpy().astype(np.float64)
        autoencoder_map = model.raw_maps(images)[1]
    residual = (teacher - student[:, :FEATURES]).transpose(1, 0, 2, 3).reshape(FEATURES, -1)
    covariance = np.cov(residual, bias=True)
    variance = np.trace(covariance) / FEATURES
    inverse = np.linalg.inv(covariance + 0.1 * variance * np.eye(FEATURES))
    expected = variance / FEATURES * np.einsum("cp,cd,dp->p", residual, inverse, residual)
    moments = Moments.of(torch.from_numpy(residual[:, :1500])) + Moments.of(
        torch.from_numpy(residual[:, 1500:])
    )
    np.testing.assert_allclose(moments.covariance().numpy(), covariance, rtol=1e-8, atol=1e-12)
    fold_metric(model, whitening(moments.covariance(), 0.1))
    with torch.inference_mode():
        found, same = model.raw_maps(images)
    np.testing.assert_allclose(found.numpy().ravel(), expected, rtol=2e-3)
    torch.testing.assert_close(same, autoencoder_map, msg="the other half of the student must stay")


class ResidualInTheImage(EfficientAD):
    """Two of the channels show the image's quadrants; the other channels are silent."""

    def residuals(self, images: Tensor) -> tuple[Tensor, Tensor]:
        level = images[:, :1] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
        residual = torch.zeros(len(images), FEATURES, 32, 32)
        residual[:, 0], residual[:, 1] = 10 * level[:, 0, ::4, ::4], level[:, 0, 2::4, 2::4]
        return residual, torch.rand(len(images), 1, 32, 32, generator=torch.Generator().manual_seed(0))


def loud_and_quiet(count: int, seed: int, defect: int) -> np.ndarray:
    """Loud noise in one channel; a defect in the quiet one, far below the noise of the other."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 128, 128), np.uint8)
    images[:, ::4, ::4] = rng.integers(0, 250, (count, 32, 32))
    images[:, 2::4, 2::4] = rng.integers(0, 12, (count, 32, 32))
    images[:, 42:66:4, 42:66:4] += np.uint8(defect)
    return images


def held_out(defect: int) -> CalibrationImages:
    scenes = [f"n{k}" for k in range(12)]
    return CalibrationImages(
        loud_and_quiet(12, 0, 0), scenes, loud_and_quiet(12, 1, defect), [f"d{k}" for k in range(12)]
    )


def test_defects_that_the_papers_score_drowns_choose_the_covariance() -> None:
    torch.manual_seed(0)
    found = calibrate(ResidualInTheImage("S").eval(), held_out(60), Target(), RIDGES)
    record = found.record["residual_metric"]
    assert record["chosen"].startswith("covariance with ridge")
    assert record["image_auroc_paper_score"] < 0.9 < max(record["image_auroc_by_ridge"].values())


def test_the_threshold_is_one_for_new_images_not_for_those_of_the_covariance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "choose_metric", lambda aurocs: min(set(aurocs) - {PAPER_SCORE}))
    monkeypatch.setattr(calibration, "STUDENT_SHARES", (PAPER_SHARE,))
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setitem(LAYERS, "S", SLIM)
        measured_anew, unchanged = (EfficientAD("S").eval() for _ in range(2))
    found = calibrate(measured_anew, held_out(60), Target(), RIDGES)
    assert np.mean(found.deployed.normals) < np.mean(found.scores.normals)
    assert found.threshold == found.scores.threshold(Target()).value

    monkeypatch.undo()
    plain = calibrate(unchanged, held_out(60), Target())
    assert plain.deployed == plain.scores


def test_without_need_or_without_asking_the_papers_score_stays() -> None:
    torch.manual_seed(0)
    model = ResidualInTheImage("S").eval()
    before = model.student.convolutions[-1].weight.clone()
    assert calibrate(model, held_out(60), Target()).record["residual_metric"]["chosen"] == "the paper's"
    few = held_out(60)
    few = CalibrationImages(few.normals[:5], few.scenes[:5], few.defects, few.defect_scenes)
    record = calibrate(model, few, Target(), RIDGES).record["residual_metric"]
    assert record == {"chosen": "the paper's", "method": "the paper's: too few images to choose by"}
    assert torch.equal(model.student.convolutions[-1].weight, before)


@pytest.mark.parametrize(("better", "chosen"), [(0.01, 0.0), (0.05, 1.0)])
def test_another_metric_must_be_clearly_better(better: float, chosen: float) -> None:
    assert choose_metric({0.0: 0.8, 1.0: 0.8 + better, 10.0: 0.7}) == chosen


def test_an_image_is_never_measured_with_its_own_scene() -> None:
    """A scene with a residual of its own looks abnormal, although it is among the normals."""
    images = held_out(0)
    images.normals[0, 2::4, 2::4] = 250
    maps, _ = cross_fitted_maps(
        ResidualInTheImage("S").eval(), images.normals, images.scenes, images.defects, images.scenes, [0.003]
    )
    normals = [float(pair[0].max()) for pair in maps[0.003][0]]
    alone = [folds_of(images.scenes, 5)[k] == folds_of(images.scenes, 5)[0] for k in range(12)]
    assert normals[0] > 20 * np.median(normals)
    assert 1 < sum(alone) < 12


def test_plain_networks_give_the_papers_score_after_a_covariance_was_folded_into_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The smallest ridge where there is a choice
    monkeypatch.setattr(calibration, "choose_metric", lambda aurocs: min({*aurocs} - {0.0}, default=0.0))
    monkeypatch.setitem(LAYERS, "S", SLIM)
    torch.manual_seed(0)
    folded = EfficientAD("S").eval()
    plain, alone = deepcopy(folded), deepcopy(folded)
    images = held_out(60)
    found = calibrate(folded, images, Target(), RIDGES)
    without_defects = CalibrationImages(images.normals, images.scenes, images.defects[:0], [])
    papers = calibrate(alone, without_defects, Target())
    assert [one.papers.is_the_detectors for one in (found, papers)] == [False, True]
    again = with_papers_score(plain, found.papers)
    assert [infer(again, image)[0] for image in images.normals] == pytest.approx(papers.scores.normals)
    assert [infer(folded, image)[0] for image in images.normals] != pytest.approx(papers.scores.normals)


def test_metrics_of_the_papers_score_are_measured_only_where_it_is_another_one() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:2, :2] = True
    items = [
        Scored(mask, mask & (label != "good"), label, label, label, score, np.where(mask, score, 0.0))
        for label, score in (("good", 0.3), ("dent", 0.9), ("good", 0.1), ("dent", 0.2))
    ]
    summary = {"image_auroc": 1.0, "au_pro": 0.9, "f1_max": 1.0, "pixel_auroc": 0.8}
    measured = papers_metrics(summary, PapersScore({}, is_the_detectors=False), lambda: items)
    assert (measured["image_auroc"], measured["f1_max"]) == (0.75, 0.8)
    assert 0.5 < measured["au_pro"] <= 1
    its_own = PapersScore({}, is_the_detectors=True)
    same = papers_metrics(summary, its_own, list)
    assert same == {"image_auroc": 1.0, "au_pro": 0.9, "f1_max": 1.0}
    assert papers_metrics({"false_alarm_rate": 0.1}, its_own, list) == {}
