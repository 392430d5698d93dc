"""Drift statistics against literal numbers and SciPy, and the measured rate of false alarms."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binom, ks_2samp
from sklearn.metrics.pairwise import rbf_kernel

from metaldefect.metrics.drift import (
    DriftSettings,
    find_drift,
    joint_thresholds,
    ks_statistics,
    mmd_statistics,
    psi_statistics,
    stability_index,
    thin,
)

QUICK = DriftSettings(min_rows=20, max_rows=60, false_alarm_rate=0.05, permutations=300)


def rows(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Made-up log rows: skewed scores, grey statistics that go with them, and vectors."""
    score = random.gamma(4, 0.01, count)
    return {
        "score": score,
        "grey_mean": 120 + 8 * random.standard_normal(count) + 100 * score,
        "embedding": random.gamma(4, 0.01, (count, 8)) + score[:, None],
    }


def test_ks_is_scipys_also_with_ties() -> None:
    random = np.random.default_rng(0)
    pooled = random.integers(0, 12, 70).astype(float)
    labels = np.stack([np.arange(70) >= 40, random.permutation(np.arange(70) >= 40)])
    expected = [ks_2samp(pooled[~row], pooled[row]).statistic for row in labels]
    assert ks_statistics(pooled, labels) == pytest.approx(expected)


def test_stability_index_of_known_counts() -> None:
    # shares 0.5/0.5 and 0.25/0.75: (0.25 - 0.5) ln(0.25 / 0.5) + (0.75 - 0.5) ln(0.75 / 0.5)
    reference, batch = np.array([499.5, 499.5]), np.array([249.5, 749.5])
    assert stability_index(reference, batch) == pytest.approx(0.274653, abs=1e-5)
    assert stability_index(reference, reference) == 0


def test_psi_counts_tenths_of_all_rows() -> None:
    pooled = np.arange(100.0)
    halves = (pooled >= 50)[None]
    # each of five bins holds ten rows of one part and none of the other: shares 10.5/55 and 0.5/55
    expected = 10 * (10.5 - 0.5) / 55 * np.log(10.5 / 0.5)
    assert psi_statistics(pooled, halves)[0] == pytest.approx(expected)


def test_mmd_is_the_mean_of_kernels() -> None:
    random = np.random.default_rng(1)
    first, second = random.standard_normal((6, 3)), random.standard_normal((9, 3)) + 1
    pooled = np.concatenate([first, second])
    distances = [np.linalg.norm(a - b) for i, a in enumerate(pooled) for b in pooled[:i]]
    gamma = 1 / (2 * np.median(distances) ** 2)
    expected = (
        rbf_kernel(first, gamma=gamma).mean()
        + rbf_kernel(second, gamma=gamma).mean()
        - 2 * rbf_kernel(first, second, gamma=gamma).mean()
    )
    assert mmd_statistics(pooled, (np.arange(15) >= 6)[None])[0] == pytest.approx(expected)


def test_thresholds_of_two_statistics_share_the_rate() -> None:
    table = np.stack([np.arange(100.0), np.arange(100.0)[::-1]], axis=1)
    # the two never exceed in the same row, so each may be exceeded by half of 10 %
    thresholds, p_value = joint_thresholds(table, 0.10)
    assert thresholds.tolist() == [95, 95]
    assert p_value == 0.02, "the first row is the most extreme of the second column, as the last of the first"
    assert np.isinf(joint_thresholds(np.ones((50, 2)), 0.1)[0]).all(), "equal values are never rare"


def test_1000_batches_without_drift_raise_the_stated_rate_of_alarms() -> None:
    random = np.random.default_rng(2)
    alarms = sum(find_drift(rows(random, 60), rows(random, 40), QUICK, seed).drifted for seed in range(1000))
    # 5 % stated; a procedure of a true rate of 5 % raises more than 67 alarms in 1 of 100 tries
    assert alarms <= binom.ppf(0.99, 1000, QUICK.false_alarm_rate) == 67
    assert alarms >= 30, f"{alarms} alarms: thresholds far above what the rate needs miss drift"


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (lambda batch: batch | {"score": batch["score"] * 2}, "score_ks"),
        (lambda batch: batch | {"grey_mean": batch["grey_mean"] + 15}, "grey_mean_ks"),
        (lambda batch: batch | {"embedding": batch["embedding"][:, ::-1] + 0.02}, "embedding_mmd"),
    ],
)
def test_planted_drift_is_found_and_named(change, column: str) -> None:
    random = np.random.default_rng(3)
    result = find_drift(rows(random, 60), change(rows(random, 60)), QUICK)
    assert result.drifted
    assert column in {statistic.name for statistic in result.statistics if statistic.exceeds}
    assert result.p_value <= QUICK.false_alarm_rate


def test_the_same_seed_gives_the_same_thresholds() -> None:
    random = np.random.default_rng(4)
    reference, batch = rows(random, 30), rows(random, 30)
    assert find_drift(reference, batch, QUICK, 7) == find_drift(reference, batch, QUICK, 7)


def test_long_logs_are_thinned_evenly() -> None:
    assert thin(np.arange(1000.0), 5).tolist() == [0, 250, 500, 749, 999]
    random = np.random.default_rng(5)
    result = find_drift(rows(random, 500), rows(random, 400), QUICK)
    assert (result.rows, result.reference_rows) == (60, 60)


def test_settings_and_samples_that_cannot_work() -> None:
    with pytest.raises(ValidationError, match="at least 15000 permutations"):
        DriftSettings(false_alarm_rate=0.001)
    with pytest.raises(ValidationError, match="less than min_rows"):
        DriftSettings(min_rows=100, max_rows=50)
    with pytest.raises(ValueError, match="columns differ"):
        find_drift({"score": np.zeros(9)}, {"grey": np.zeros(9)}, QUICK)
    with pytest.raises(ValueError, match="at least two"):
        find_drift({"score": np.zeros(9)}, {"score": np.zeros(1)}, QUICK)
