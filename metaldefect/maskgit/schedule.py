"""Mask ratios for training, the Halton order, and how many tokens each sampling step writes."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def arccos_mask_ratio(uniform: Tensor) -> Tensor:
    """Training mask ratio arccos(u) / (pi / 2) for uniform numbers u in [0, 1); its mean is 2 / pi."""
    return torch.arccos(uniform) / (math.pi / 2)


def van_der_corput(index: int, base: int) -> float:
    """The radical inverse of `index` in `base`, in [0, 1)."""
    value, weight = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value += digit * weight
        weight /= base
    return value


@lru_cache(maxsize=8)
def halton_order(grid: int) -> tuple[int, ...]:
    """Positions (row * grid + column) in the order of the 2-3 Halton sequence, each once.

    Rows follow base 2 and columns base 3, from index 1, keeping first occurrences (Besnier et al. 2025).
    Neighbours are far apart in the order, so tokens written together depend little on each other.
    """
    order: dict[int, None] = {}
    index = 1
    while len(order) < grid * grid:
        row = int(grid * van_der_corput(index, 2))
        column = int(grid * van_der_corput(index, 3))
        order.setdefault(row * grid + column)
        index += 1
    return tuple(order)


def cumulative_counts(total: int, steps: int) -> list[int]:
    """Positions known after each of `steps` steps out of `total`, by the arccos schedule.

    After step i (from 0): max(i + 1, floor(total (1 - arccos((i+1)/steps) / (pi/2)))), at most `total`.
    Few at first, when little is known, and many at the end.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be at least 1")
    counts = []
    for i in range(steps):
        ratio = math.acos((i + 1) / steps) / (math.pi / 2)
        counts.append(min(total, max(i + 1, int(total * (1.0 - ratio)))))
    counts[-1] = total
    return counts
