"""Targets that share probability with codes that look alike (open-muse's soft codes)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SoftTargets(NamedTuple):
    """Each token's nearest other tokens, and how the soft share is split among them."""

    neighbours: Tensor  # int64 [V, K]
    shares: Tensor  # float32 [V, K], each row sums to 1


def soft_targets(codebook: Tensor, count: int, temperature: float) -> SoftTargets:
    """Find each code's nearest codes, with shares softmax(-squared distance / temperature).

    Args:
        codebook: normalised entries in token order, `float [V, D]`.
        count: neighbours per code, excluding itself; at most V - 1 are kept.
        temperature: a small value gives the whole share to the nearest.

    Raises:
        ValueError: fewer than two codes, a count below 1 or a temperature of 0 or less.
    """
    if len(codebook) < 2 or count < 1 or temperature <= 0:
        raise ValueError(
            f"soft targets need two codes, a neighbour and a temperature above 0, got {len(codebook)} codes, "
            f"{count} neighbours, temperature {temperature}"
        )
    count = min(count, len(codebook) - 1)
    neighbours, shares = [], []
    # In chunks: 16,384 codes would need a gigabyte of distances
    for start in range(0, len(codebook), 1024):
        distance = torch.cdist(codebook[start : start + 1024].float(), codebook.float()).square()
        rows = torch.arange(len(distance), device=distance.device)
        distance[rows, rows + start] = torch.inf
        nearest = distance.topk(count, dim=1, largest=False)
        neighbours.append(nearest.indices)
        shares.append((-nearest.values / temperature).softmax(dim=1))
    return SoftTargets(torch.cat(neighbours), torch.cat(shares))
