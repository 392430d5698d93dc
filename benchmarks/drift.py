"""`python -m benchmarks.drift`: how often the drift watch calls drift, without any and with a planted one.

Every batch is compared with one of many references, because the stated rate is a mean over references. Rows
are made up: skewed scores, grey levels that go with them, and anomaly maps of 64 cells.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.results import Interval, add_results_argument, publish
from metaldefect.metrics.bootstrap import bootstrap_mean
from metaldefect.metrics.drift import DriftSettings, find_drift

Rows = dict[str, NDArray[np.float64]]

REFERENCES = 50
BATCHES = 20  # per reference
BATCH_ROWS = 100
CELLS = 64
SETTINGS = DriftSettings()
# Of the brightness, in standard deviations of its own
SHIFTS = (0.0, 0.25, 0.5, 1.0)


def draw(random: np.random.Generator, count: int, shift: float) -> Rows:
    """Made-up rows of a log, whose brightness is shifted."""
    score = random.gamma(4, 0.01, count)
    return {
        "score": score,
        "grey_mean": 120 + 8 * (random.standard_normal(count) + shift),
        "grey_std": 20 + random.standard_normal(count) + 20 * score,
        "embedding": random.gamma(4, 0.01, (count, CELLS)) + score[:, None],
    }


def alarm_rate(reference_rows: int, shift: float, seed: int) -> Interval:
    """Share of batches called drift, with a 95 % interval over references."""
    random = np.random.default_rng([seed, reference_rows, round(100 * shift)])
    alarms: list[bool] = []
    groups: list[int] = []
    for number in range(REFERENCES):
        reference = draw(random, reference_rows, 0.0)
        for _ in range(BATCHES):
            batch = draw(random, BATCH_ROWS, shift)
            alarms.append(find_drift(reference, batch, SETTINGS, len(alarms)).drifted)
            groups.append(number)
    found = bootstrap_mean(np.array(alarms, float), groups, seed=seed)
    return Interval(value=found["mean"], low=found["low"], high=found["high"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the rows (default: %(default)s)")
    add_results_argument(parser, "drift")
    arguments = parser.parse_args()
    cases = [(rows, 0.0) for rows in (25, 100, 400)] + [(100, shift) for shift in SHIFTS[1:]]
    figures = {}
    for rows, shift in tqdm(cases, desc="drift", unit="case"):
        name = f"alarms_without_drift_reference_{rows}"
        if shift:
            name = f"alarms_brightness_shifted_by_{round(100 * shift)}_percent_of_its_spread"
        figures[name] = alarm_rate(rows, shift, arguments.seed)
    details = {
        "references": REFERENCES,
        "batches": REFERENCES * BATCHES,
        "rows_per_batch": BATCH_ROWS,
        "stated_rate": SETTINGS.false_alarm_rate,
        "reference_rows_of_shifted_cases": 100,
    }
    publish(arguments.results, "drift", figures, details)


if __name__ == "__main__":
    main()
