"""Metrics of generated images that few images or a single class do not allow are named."""

from __future__ import annotations

import numpy as np

from metaldefect.metrics.generation_suite import Labelled, evaluate


def side(count: int, seed: int, classes: int = 1) -> Labelled:
    labels = np.array([f"class {k % classes}" for k in range(count)])
    return Labelled.ungrouped(np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32), labels)


def test_a_single_class_has_no_class_metrics() -> None:
    train, test, fake = side(20, 0), side(8, 1), side(8, 2)
    found = evaluate(train, test, test.features, fake, 0)
    assert found["left_out"] == {"class_agreement, cas": "there is only one class"}
    assert not {"class_agreement", "cas"} & set(found)
    assert 0 <= found["precision"] <= 1


def test_few_images_have_no_manifold() -> None:
    train, test, fake = side(20, 0, 2), side(8, 1, 2), side(4, 2, 2)
    found = evaluate(train, test, test.features, fake, 0)
    assert found["left_out"] == {"manifold, precision, recall": "4 images on a side, at least 6 are needed"}
    assert "class_agreement" in found
    assert "precision" not in found
