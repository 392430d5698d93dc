"""Two detectors on the same images: against scikit-learn and SciPy, and by what a bootstrap must do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from metaldefect.metrics.comparison import DetectorScores, compare, metric_values, scene_weights

LABELS = np.array(["good"] * 30 + ["dent"] * 12 + ["scratch"] * 8)
SCENES = [f"s{k // 2}" for k in range(50)]


def drawn(seed: int, gap: float) -> DetectorScores:
    """Scores of which defects lie `gap` standard deviations above good images."""
    rng = np.random.default_rng(seed)
    return DetectorScores(rng.normal(size=50).round(1) + gap * (LABELS != "good"), 0.5 * gap)


def test_metrics_under_weights_are_those_of_scikit_learn() -> None:
    detector = drawn(0, 1.0)
    weights = np.random.default_rng(1).integers(0, 4, (5, 50)).astype(float)
    weights[:, [0, 30, 42]] = 1  # every label occurs
    found = metric_values(detector, LABELS, weights)
    for row in range(5):
        expected = roc_auc_score(LABELS != "good", detector.scores, sample_weight=weights[row])
        assert found["image_auroc"][row] == pytest.approx(expected, abs=1e-12)
        chosen = LABELS != "scratch"
        expected = roc_auc_score(
            LABELS[chosen] == "dent", detector.scores[chosen], sample_weight=weights[row, chosen]
        )
        assert found["image_auroc/dent"][row] == pytest.approx(expected, abs=1e-12)
        alarms = np.average(detector.alarms[:30], weights=weights[row, :30])
        assert found["passed_good"][row] == pytest.approx(1 - alarms)


def test_a_resample_draws_whole_scenes_and_as_many_per_label() -> None:
    weights = scene_weights(LABELS, SCENES, 200, np.random.default_rng(0))
    for label, scenes in (("good", 15), ("dent", 6), ("scratch", 4)):
        chosen = weights[:, label == LABELS]
        assert (chosen[:, ::2] == chosen[:, 1::2]).all()  # both images of a scene
        assert (chosen[:, ::2].sum(axis=1) == scenes).all()
    assert len(np.unique(weights, axis=0)) > 190


def test_the_interval_is_that_of_scipy() -> None:
    """Detection rate with one image per scene: SciPy resamples the paired differences of single images."""
    champion, challenger = drawn(2, 1.0), drawn(3, 1.6)
    scenes = [str(k) for k in range(50)]
    labels = ["good" if label == "good" else "dent" for label in LABELS]
    found = compare(champion, challenger, labels, scenes, samples=20_000)["detection_rate"]
    defects = LABELS != "good"
    differences = challenger.alarms[defects].astype(float) - champion.alarms[defects]
    expected = stats.bootstrap(
        (differences,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert found.value == pytest.approx(differences.mean())
    assert found.low == pytest.approx(expected.low, abs=0.051)  # one defect of twenty
    assert found.high == pytest.approx(expected.high, abs=0.051)


def test_scenes_of_several_images_widen_the_interval() -> None:
    """Twenty copies of each image say nothing new."""
    champion, challenger = drawn(4, 0.8), drawn(5, 1.0)
    once = compare(champion, challenger, LABELS.tolist(), [str(k) for k in range(50)])["image_auroc"]
    again = [DetectorScores(np.tile(one.scores, 20), one.threshold) for one in (champion, challenger)]
    names = [str(k) for _ in range(20) for k in range(50)]
    copied = compare(*again, LABELS.tolist() * 20, names)["image_auroc"]
    naive = compare(*again, LABELS.tolist() * 20, [str(k) for k in range(1000)])["image_auroc"]
    width = once.high - once.low
    assert copied.high - copied.low == pytest.approx(width, rel=0.15)
    assert naive.high - naive.low < 0.5 * width


def test_equal_detectors_differ_by_exactly_nothing() -> None:
    detector = drawn(6, 1.0)
    for difference in compare(detector, detector, LABELS.tolist(), SCENES, samples=100).values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_ties_look_better_no_more_often_than_stated() -> None:
    """Two detectors of equal quality, 200 times: a gain is claimed in 2.5 % of the cases, not in 10 %."""
    claimed = 0
    for trial in range(200):
        champion, challenger = drawn(2 * trial, 1.0), drawn(2 * trial + 1, 1.0)
        found = compare(champion, challenger, LABELS.tolist(), SCENES, samples=400, seed=trial)
        claimed += found["image_auroc"].low > 0
    assert claimed <= 12  # P(more) < 0.5 % at a rate of 2.5 %


def test_one_kind_of_image_is_refused() -> None:
    detector = DetectorScores(np.zeros(3), 0.5)
    with pytest.raises(ValueError, match="all 3 images are good"):
        compare(detector, detector, ["good"] * 3, ["a", "b", "c"])
    with pytest.raises(ValueError, match="3 and 3 scores, 2 labels, 3 scenes"):
        compare(detector, detector, ["good", "dent"], ["a", "b", "c"])
