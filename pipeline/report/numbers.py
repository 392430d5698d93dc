"""A run's metrics, each with its interval, and how the page writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaldefect.artifacts import read_json
from pipeline.main_metrics import METRICS, formatted
from pipeline.run import lookup

INTERVALS = "interval_95"


@dataclass(frozen=True)
class Estimate:
    """A measured number with the bounds of its 95 % interval, if those were measured too."""

    value: float
    low: float | None = None
    high: float | None = None

    def as_percent(self) -> str:
        """`49 % (40 to 57 %)`."""
        bounds = f" ({share(self.low, unit='')} to {share(self.high)})" if self.has_interval else ""
        return share(self.value) + bounds

    def as_number(self) -> str:
        """`0.6744 (0.6259 to 0.7215)`."""
        bounds = f" ({formatted(self.low)} to {formatted(self.high)})" if self.has_interval else ""
        return formatted(self.value) + bounds

    @property
    def has_interval(self) -> bool:
        """Whether both bounds are known."""
        return self.low is not None and self.high is not None


def share(value: float | None, unit: str = "\N{NO-BREAK SPACE}%") -> str:
    """A fraction as percent, with one digit where whole percents would hide that it is not 0 or 100 %."""
    percent = 100 * (value or 0.0)
    whole = f"{percent:.0f}"
    return (f"{percent:.1f}" if whole in ("0", "100") and float(whole) != percent else whole) + unit


class Metrics:
    """The metrics files of the run in a project's root; what was not measured is None."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: dict[str, Any] = {}

    def content(self, file: str) -> Mapping[str, Any]:
        """All that `metrics/<file>.json` holds; empty if it does not exist.

        Raises:
            UserError: the file is not valid JSON.
        """
        if file not in self.read:
            path = self.root / METRICS / f"{file}.json"
            self.read[file] = read_json(path) if path.is_file() else {}
        found: Mapping[str, Any] = self.read[file]
        return found

    def mapping(self, file: str, key: str) -> Mapping[str, Any]:
        """The mapping at a dotted key; empty if there is none."""
        found = lookup(self.content(file), key)
        return found if isinstance(found, Mapping) else {}

    def estimate(self, file: str, key: str) -> Estimate | None:
        """The number at a dotted key: `{"mean": 1, "low": 0, "high": 2}`, or one with its bounds apart."""
        content = self.content(file)
        found = lookup(content, key)
        if isinstance(found, Mapping):
            centre = found.get("mean", found.get("value"))
            bounds = [found.get("low"), found.get("high")]
        else:
            above, _, name = key.rpartition(".")
            centre = found
            # Where nothing was measured, a text may say why
            apart = self.mapping(file, above) if above else content
            bounds = (apart.get(INTERVALS) or {}).get(name) or [None, None]
        if not is_number(centre):
            return None
        low, high = bounds if all(is_number(bound) for bound in bounds) else (None, None)
        return Estimate(float(centre), low, high)

    def value(self, file: str, key: str) -> float | None:
        """The number at a dotted key without its interval."""
        found = self.estimate(file, key)
        return None if found is None else found.value


def is_number(value: Any) -> bool:
    """Whether a value is a number and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
