"""Latency of one frame, from its bytes to the verdict."""

from __future__ import annotations

import time

import numpy as np
from tqdm import tqdm

from metaldefect.deploy.runtime import Detector
from metaldefect.images import U8

WARM_UP_FRAMES = 5


def measure_latency(detector: Detector, frames: U8, count: int) -> dict[str, float]:
    """Time `Detector.predict`, including pre- and post-processing, one frame at a time.

    Args:
        detector: compiled for latency.
        frames: grey `uint8 [N, H, W]`, used in turn.
        count: number of timed frames; a few warm-up frames come first.

    Returns:
        `p50_ms`, `p99_ms` and `frames_per_s` (1000 / `p50_ms`).
    """
    for index in range(WARM_UP_FRAMES):
        detector.predict(frames[index % len(frames)])
    seconds = np.empty(count)
    for index in tqdm(range(count), desc=f"latency {detector.precision}", unit="frame", leave=False):
        started = time.perf_counter()
        detector.predict(frames[index % len(frames)])
        seconds[index] = time.perf_counter() - started
    p50, p99 = np.quantile(1000 * seconds, [0.5, 0.99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "frames_per_s": float(1000 / p50)}
