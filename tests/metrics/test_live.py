"""Shares by operators' verdicts, against published exact intervals."""

from __future__ import annotations

import numpy as np
import pytest

from metaldefect.metrics.live import Share, live_metrics


def test_shares_of_flagged_and_passed_images() -> None:
    flagged = np.array([True] * 5 + [False] * 10)
    defective = np.array([True] * 4 + [False] * 10 + [True])
    found = live_metrics(flagged, defective)
    assert (found.confirmed.value, found.confirmed.count, found.confirmed.of) == (0.8, 4, 5)
    assert (found.missed.value, found.missed.count, found.missed.of) == (0.1, 1, 10)


def test_the_interval_is_exact() -> None:
    # 0 of 30: the rule of three says about 3/30; Clopper-Pearson 1 - 0.025 ** (1/30)
    share = Share.out_of(0, 30)
    assert (share.low, share.high) == (0, pytest.approx(1 - 0.025 ** (1 / 30)))
    # 8 of 10, Clopper-Pearson as in Brown, Cai and DasGupta (2001)
    assert (Share.out_of(8, 10).low, Share.out_of(8, 10).high) == pytest.approx((0.4439, 0.9748), abs=1e-4)


def test_nothing_checked_is_no_number() -> None:
    found = live_metrics(np.zeros(0, bool), np.zeros(0, bool))
    assert found.as_dict()["missed"] == {"value": None, "low": None, "high": None, "count": 0, "of": 0}
