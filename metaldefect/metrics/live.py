"""How good the live detector is by operators' verdicts, which arrive later and for some images only.

Operators look at flagged parts far more often than at passed ones. Shares among the flagged and among the
passed images stay true then; a rate of missed defects over all parts would not, so none is given.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """A share of images with its exact (Clopper-Pearson) 95 % interval; None without images.

    Attributes:
        value: the share, in [0, 1].
        low: lower end of the interval.
        high: upper end of the interval.
        count: images that count.
        of: images in all.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
    of: int

    @classmethod
    def out_of(cls, count: int, of: int) -> Share:
        """The share `count / of`."""
        if of == 0:
            return cls(None, None, None, 0, 0)
        interval = binomtest(count, of).proportion_ci(CONFIDENCE, "exact")
        return cls(count / of, float(interval.low), float(interval.high), count, of)


@dataclass(frozen=True)
class LiveMetrics:
    """What operators found.

    Attributes:
        confirmed: share of flagged images with a defect.
        missed: share of passed images with a defect, among those that somebody looked at.
    """

    confirmed: Share
    missed: Share

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for a JSON file."""
        return asdict(self)


def live_metrics(flagged: NDArray[np.bool_], defective: NDArray[np.bool_]) -> LiveMetrics:
    """Measure the detector on images with a verdict.

    Args:
        flagged: whether the detector called each image anomalous, `[N]`.
        defective: whether the operator found a defect, `[N]`.
    """
    return LiveMetrics(
        confirmed=Share.out_of(int((flagged & defective).sum()), int(flagged.sum())),
        missed=Share.out_of(int((~flagged & defective).sum()), int((~flagged).sum())),
    )
