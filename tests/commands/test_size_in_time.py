"""`metaldefect train --minutes` makes images smaller where they would leave no time to train."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaldefect.commands import size_in_time as module
from metaldefect.commands.budget import FIXED_SECONDS, SPARE, Budget
from metaldefect.commands.size_in_time import size_in_time
from metaldefect.efficientad.size_choice import SizeChoice
from metaldefect.efficientad.torch_model import LAYERS, PatchDescriptionNetwork
from tests.slim_detector import SLIM

SECONDS = {256: 1.0, 192: 0.5, 128: 0.25}


class Stopped(Budget):
    """A budget whose clock stands at ten minutes."""

    spent = 600.0


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> PatchDescriptionNetwork:
    monkeypatch.setitem(LAYERS, "S", SLIM)
    monkeypatch.setattr(module, "seconds_per_image", lambda _teacher, size: SECONDS[size])
    return PatchDescriptionNetwork("S")


def chosen(teacher: PatchDescriptionNetwork, work: Path, test: int, minutes: float | None = 30) -> SizeChoice:
    return size_in_time(SizeChoice(256, {"256": 0.9}, "why"), 200, test, teacher, Stopped(minutes), work)


# A quarter of the 30 minutes is for the training, so 750 of the 1,800 seconds remain beside the first 600
MOST = (750 / SPARE - FIXED_SECONDS) - 200


@pytest.mark.parametrize(
    ("test", "size"),
    [
        (int(MOST), 256),
        (int(MOST) + 1, 192),
        (int(2 * MOST + 200), 192),
        (int(2 * MOST + 200) + 1, 128),
        (1_000_000, 128),
    ],
)
def test_the_largest_size_that_leaves_time_is_taken(
    teacher: PatchDescriptionNetwork, tmp_path: Path, test: int, size: int
) -> None:
    assert chosen(teacher, tmp_path, test).size == size


def test_it_says_why_and_keeps_the_choice_for_a_run_that_goes_on(
    teacher: PatchDescriptionNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    smaller = chosen(teacher, tmp_path, 1000)
    assert smaller.why.startswith("image size: 128 instead of 256: scoring 1000 test images and the export")
    assert smaller.why in capsys.readouterr().out
    assert smaller.aurocs == {"256": 0.9}
    monkeypatch.setattr(module, "seconds_per_image", lambda *_: 0.0)
    assert chosen(teacher, tmp_path, 1000).size == 128
    assert chosen(teacher, tmp_path, 1000, minutes=60).size == 256


def test_without_a_limit_and_where_it_fits_nothing_changes(
    teacher: PatchDescriptionNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen(teacher, tmp_path, 1000, minutes=None).size == 256
    assert chosen(teacher, tmp_path, 10).why == "why"
    assert capsys.readouterr().out == ""
