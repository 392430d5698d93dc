"""The two-sample test: what it says of equal samples, of different ones, and of copies."""

from __future__ import annotations

import numpy as np
import pytest

from metaldefect.metrics.realism import ranks, realism_auroc


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaldefect.metrics.realism.INTERVAL_SAMPLES", 100)


def features(count: int, shift: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(0, 1, (count, 40)) + shift).astype(np.float32)


def test_samples_of_one_distribution_cannot_be_told_apart_and_shifted_ones_can() -> None:
    groups = list(range(60))
    others = [f"other {k}" for k in groups]
    alike = realism_auroc(features(60, 0, 0), features(60, 0, 1), groups, others, 0)
    assert alike["low"] < 0.5 < alike["high"]
    apart = realism_auroc(features(60, 0, 0), features(60, 1.5, 1), groups, others, 0)
    assert apart["mean"] > 0.98
    between = realism_auroc(features(60, 0, 0), features(60, 0.2, 1), groups, others, 0)
    assert alike["mean"] < between["mean"] < apart["mean"]


def test_copies_in_the_groups_of_their_originals_are_perfectly_real() -> None:
    real = features(50, 0, 0)
    found = realism_auroc(real, real.copy(), list(range(50)), list(range(50)), 0)
    assert found["mean"] == pytest.approx(0.5, abs=0.02)


def test_a_group_is_never_on_both_sides_of_a_fold() -> None:
    # Ten near-copies per group, whose look says nothing about the truth: a judge that saw the group knows all
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (12, 40))
    rows = np.repeat(centres, 10, axis=0) + rng.normal(0, 0.01, (120, 40))
    groups = np.repeat(np.arange(12), 10).tolist()
    found = realism_auroc(
        rows[:60].astype(np.float32), rows[60:].astype(np.float32), groups[:60], groups[60:], 0
    )
    assert found["mean"] < 0.85


def test_too_few_groups_are_named_and_ranks_have_no_scale() -> None:
    with pytest.raises(ValueError, match="2 groups of inserted defects, 3 are needed"):
        realism_auroc(features(6, 0, 0), features(6, 0, 1), list(range(6)), [0, 0, 0, 1, 1, 1], 0)
    assert ranks(np.array([30.0, 10.0, 20.0])).tolist() == [0.75, 0.25, 0.5]
