"""Intervals against standard errors from theory."""

import numpy as np
import pytest

from metaldefect.metrics.bootstrap import (
    bootstrap_mean,
    half_sample_interval,
    ratio_interval,
    ratio_of_means,
)


def test_bootstrap_draws_whole_groups() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    plain = bootstrap_mean(values)
    assert plain["mean"] == pytest.approx(values.mean())
    assert plain["high"] - plain["low"] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    repeated = bootstrap_mean(np.repeat(values, 4), np.repeat(np.arange(400), 4).tolist())
    assert repeated["high"] - repeated["low"] == pytest.approx(plain["high"] - plain["low"], rel=0.1)


def test_an_interval_needs_two_groups() -> None:
    with pytest.raises(ValueError, match="at least two groups"):
        bootstrap_mean([1.0, 2.0], ["a", "a"])
    with pytest.raises(ValueError, match="at least two groups"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="3 groups for 2 values"):
        bootstrap_mean([1.0, 2.0], ["a", "b", "b"])


def test_a_ratio_of_equal_values_is_one() -> None:
    values = np.random.default_rng(0).random(40) * 0.1
    assert ratio_interval(values, 2 * values, np.arange(40)) == pytest.approx([0.5, 0.5])
    with pytest.raises(ValueError, match="ratio to a mean of 0"):
        ratio_interval(values, 0 * values)


def test_a_ratio_over_few_hits_has_a_finite_interval() -> None:
    low, high = ratio_interval([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], np.arange(3))
    assert (low, high) == pytest.approx((1.0, 3.0), abs=0.6)


def width(found: dict[str, float]) -> float:
    return found["high"] - found["low"]


def test_the_ratio_of_independent_means_has_the_error_of_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    top, bottom = rng.normal(6.0, 2.0, 100), rng.normal(3.0, 1.0, 100)
    found = ratio_of_means(top, bottom)
    ratio = top.mean() / bottom.mean()
    relative = np.hypot(top.std() / top.mean(), bottom.std() / bottom.mean()) / 10
    assert found["mean"] == pytest.approx(ratio)
    assert width(found) == pytest.approx(2 * 1.96 * ratio * relative, rel=0.1)
    # Six exposures of one object are one object, on either side
    for repeated, groups in (
        ((np.repeat(top, 6), bottom), {"top_groups": np.repeat(np.arange(100), 6)}),
        ((top, np.repeat(bottom, 6)), {"bottom_groups": np.repeat(np.arange(100), 6)}),
    ):
        assert width(ratio_of_means(*repeated, **groups)) == pytest.approx(width(found), rel=0.1)
        assert width(ratio_of_means(*repeated)) < 0.85 * width(found)


def test_half_samples_estimate_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, 400)
    found = half_sample_interval(lambda chosen: float(values[chosen].mean()), list(range(400)), resamples=400)
    assert found["mean"] == pytest.approx(values.mean())
    error = values.std() / 20
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * error, rel=0.15)
    with pytest.raises(ValueError, match="two groups"):
        half_sample_interval(lambda chosen: 0.0, ["a", "a"])
