"""Metrics that a test set does not allow are left out and named; the others stay."""

from __future__ import annotations

import numpy as np

from metaldefect.efficientad.evaluation import Scored, summarise
from metaldefect.efficientad.figures import detector_figures


def scored(label: str, score: float, masked: bool = False) -> Scored:
    mask = np.zeros((8, 8), bool)
    mask[:2, :2] = masked
    values = np.full((8, 8), score, np.float32)
    values[:2, :2] += masked
    return Scored(
        np.zeros((8, 8), np.uint8), mask, label, f"{label}/{score}", f"{label} {score}", score, values
    )


def test_good_images_alone_give_the_false_alarm_rate() -> None:
    found = summarise([scored("good", 0.1), scored("good", 0.9)], 0.5, seed=0, samples=5)
    assert found["false_alarm_rate"] == 0.5
    assert found["left_out"] == {
        "image and pixel metrics": "2 good and 0 defective test images: both kinds are needed"
    }
    assert "image_auroc" not in found
    assert list(detector_figures({"real": [scored("good", 0.1)]}, 0.5)) == ["score_histogram"]


def test_no_test_image_at_all() -> None:
    found = summarise([], 0.5, seed=0, samples=5)
    assert found["images"] == {"good": 0, "defective": 0}
    assert list(found["left_out"]) == ["image and pixel metrics"]


def test_without_masks_there_are_image_metrics_and_no_pixel_metrics() -> None:
    found = summarise([scored("good", 0.1), scored("dent", 0.9)], 0.5, seed=0, samples=5)
    assert (found["image_auroc"], found["detection_rate"], found["defective_without_mask"]) == (1.0, 1.0, 1)
    assert found["left_out"] == {"pixel_auroc, au_pro": "none of the 1 defective test images has a mask"}
    assert "pixel_auroc" not in found


def test_with_a_mask_nothing_is_left_out() -> None:
    found = summarise([scored("good", 0.1), scored("dent", 0.9, masked=True)], 0.5, seed=0, samples=5)
    assert found["left_out"] == {}
    assert found["pixel_auroc"] > 0.5
