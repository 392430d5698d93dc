"""Which way metrics get better."""

import doctest

import pytest

from metaldefect.metrics import directions
from metaldefect.metrics.directions import Better, direction, improvement, table


@pytest.mark.parametrize(
    ("key", "before", "after", "better"),
    [
        ("rkid", 0.9, 0.4, 0.5),
        ("after.rkid_with_grain.mean", 0.4, 0.9, -0.5),
        ("lpips", 0.2, 0.5, -0.3),
        ("ssim", 0.6, 0.7, 0.1),
        ("kid.ratio", 2.0, 1.0, 1.0),
        ("cas.ratio", 2.0, 1.0, -1.0),
        ("diversity.crazing.ratio", 0.5, 1.25, 0.25),
        ("seams.inserted_to_canvas", 0.9, 1.3, -0.2),
        ("masked_ce", 5.0, 4.5, 0.5),
        ("ce_wrong_minus_true", 0.1, 0.3, 0.2),
        ("per_type.scratch.image_auroc", 0.9, 0.95, 0.05),
    ],
)
def test_a_lower_kid_is_better_and_a_higher_ssim(
    key: str, before: float, after: float, better: float
) -> None:
    assert improvement(key, before, after) == pytest.approx(better)


@pytest.mark.parametrize("key", ["images.total", "memorisation.test_below", "threshold", "ce_wrong"])
def test_counts_settings_and_yardsticks_have_no_direction(key: str) -> None:
    assert direction(key) is None
    assert improvement(key, 1.0, 2.0) is None


def test_a_name_has_one_direction() -> None:
    with pytest.raises(ValueError, match="'kid' has two directions: lower and HIGHER"):
        table(LOWER=["kid"], HIGHER=["ssim", "kid"])
    assert direction("kid") is Better.LOWER


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(directions) == doctest.TestResults(failed=0, attempted=3)
