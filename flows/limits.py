"""How long a flow may take: one that hangs would keep all later ones waiting."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

# `limit_hours` in prefect.yaml replaces it
LIMIT_HOURS = 24.0


class TimeLimitError(RuntimeError):
    """A flow took longer than it may; the message says what was running and what to do."""


@dataclass(frozen=True)
class TimeLimit:
    """The time that a flow has.

    Attributes:
        flow: its name.
        hours: how long it may take.
        ends: when, by the monotonic clock.
    """

    flow: str
    hours: float
    ends: float

    @classmethod
    def start(cls, flow: str, hours: float) -> Self:
        """A limit that counts from now."""
        return cls(flow, hours, time.monotonic() + 3600 * hours)

    @property
    def left(self) -> float:
        """Seconds; negative once the time is over."""
        return self.ends - time.monotonic()

    def error(self, running: str) -> TimeLimitError:
        """What to tell people when the time is over."""
        return TimeLimitError(
            f"{self.flow} did not end within {self.hours:g} h: {running} was ended. What serves has not"
            " changed, and a training resumes from its last checkpoint. `limit_hours` in prefect.yaml gives"
            " more time"
        )
