"""What is tried again, how often, and when it is given up."""

from __future__ import annotations

import pytest

from flows import retries
from flows.retries import patiently

BUSY = (255, "ERROR: 'data/merged' is busy, it is being blocked by:\n  (PID 7): dvc repro")
OFFLINE = (1, "ConnectionError: the remote does not answer")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LOCK_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(retries, "DELAYS", [0, 0, 0])


@pytest.mark.parametrize(
    ("answers", "code", "attempts"),
    [
        ([BUSY] * 9 + [(0, "")], 0, 10),  # a lock is waited for, however long the other one takes
        ([OFFLINE] * 2 + [(0, "")], 0, 3),
        ([OFFLINE] * 9, 1, 4),
        ([(-9, "")] * 9, -9, 4),
        ([(1, "merge: 1 file cannot be used")] * 9, 1, 1),
        ([BUSY, OFFLINE, (1, "merge: no image")], 1, 3),
    ],
)
def test_locks_are_waited_for_and_other_failures_get_three_more_tries(
    answers: list[tuple[int, str]], code: int, attempts: int
) -> None:
    left, said = iter(answers), []
    assert patiently(lambda: next(left), lambda: False, said.append) == code
    assert len(answers) - len(list(left)) == attempts
    assert len(said) == attempts - 1


def test_a_cancelled_flow_does_not_wait_for_a_lock() -> None:
    assert patiently(lambda: BUSY, lambda: True, print) == 255


def test_a_lock_that_is_never_freed_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LONGEST_LOCK_SECONDS", 0.0)
    assert patiently(lambda: BUSY, lambda: False, print) == 255
