"""Thresholds for a target: literal numbers, simulated lines, and what few images support."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from metaldefect.efficientad.thresholds import (
    Target,
    choose_threshold,
    false_alarm_rate,
    needed_scenes,
    transfer,
)


def test_enough_images_give_an_order_statistic_and_its_interval() -> None:
    scores = np.arange(1.0, 100.0)  # 99 of them
    found = choose_threshold(scores, [], Target(false_alarms=0.1), scenes=99)
    assert found.value == 90.0
    assert found.false_alarms == pytest.approx(0.1)
    # The 2.5 % and 97.5 % quantiles of Beta(10, 90)
    assert found.interval == pytest.approx((0.04934, 0.16548), abs=2e-4)
    assert found.support.startswith("99 independent good images support a rate of 10 %")


def test_new_good_images_exceed_it_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(2000):
        value = choose_threshold(rng.gamma(2.0, size=40), [], Target(false_alarms=0.05), 40).value
        rates.append(np.exp(-value) * (1 + value))  # the gamma distribution's tail
    assert np.mean(rates) == pytest.approx(0.05, abs=0.004)
    low, high = false_alarm_rate(np.arange(40.0), 38.0, 40)[1]
    inside = [low <= rate <= high for rate in rates]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_six_images_cannot_set_one_percent_and_the_record_says_so() -> None:
    scores = [0.1, 0.2, 0.15, 0.12, 0.18, 0.11]
    found = choose_threshold(scores, [0.5, 0.05], Target(), scenes=6)
    assert found.support.startswith("6 independent good images: a rate of 1 % cannot be set, 100 are needed;")
    # mean + t(0.99, 5) s sqrt(7/6), Student's t is 3.365: 0.14333 + 3.36493 * 0.04033 * 1.0801
    assert found.value == pytest.approx(0.2899, abs=2e-4)
    assert found.false_alarms == pytest.approx(1 / 7)
    assert found.interval == pytest.approx((0.0, 0.4593), abs=1e-4)  # 1 - 0.025 ** (1 / 6)
    assert found.detected == 0.5
    assert "extrapolated" in found.method


def test_one_image_gives_its_score() -> None:
    found = choose_threshold([0.4], [], Target(), scenes=1)
    assert found.value == 0.4
    assert "too few" in found.method


def test_images_of_one_scene_count_once() -> None:
    scores = np.linspace(0, 1, 120)
    many, few = (choose_threshold(scores, [], Target(), scenes) for scenes in (120, 6))
    assert "support a rate" in many.support
    assert "6 independent good images: a rate of 1 % cannot be set" in few.support
    assert few.interval[1] > many.interval[1]


def test_costs_choose_the_cheapest_threshold() -> None:
    good, bad = [1.0, 2.0, 3.0, 6.0], [4.0, 5.0, 7.0, 8.0]
    careful = choose_threshold(good, bad, Target(cost_miss=1000, cost_false_alarm=1, defect_share=0.5), 4)
    assert 3 < careful.value < 4, "every defect is found at the price of one false alarm"
    lazy = choose_threshold(good, bad, Target(cost_miss=1, cost_false_alarm=1000, defect_share=0.5), 4)
    assert 6 < lazy.value < 7
    assert careful.detected == 1.0
    # (0 + 1) / 6 missed, (1 + 1) / 6 flagged
    assert careful.expected_cost == pytest.approx(0.5 * 1000 / 6 + 0.5 * 2 / 6)


def test_costs_without_defects_fall_back_and_say_so() -> None:
    found = choose_threshold([0.1, 0.2], [], Target(cost_miss=5, cost_false_alarm=1), 2)
    assert found.method.startswith("no inserted defects to weigh the costs with")
    assert found.expected_cost is None


def test_one_cost_alone_is_refused() -> None:
    with pytest.raises(ValidationError, match="give both --cost-miss and --cost-false-alarm"):
        Target(cost_miss=5)


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.5, 1), (0.0, None)])
def test_needed_scenes(rate: float, needed: int | None) -> None:
    assert needed_scenes(rate) == needed


def test_another_precision_flags_the_same_images() -> None:
    scores = np.random.default_rng(0).random(30)
    others = scores**3 + 0.01
    for threshold in (0.3, 0.62):
        moved = transfer(threshold, scores, others)
        assert ((others > moved) == (scores > threshold)).all()
    assert transfer(1.5, [1.0, 0.5], [2.0, 1.0]) == 2.5
