"""Random numbers that belong to one drawn image, whatever else is drawn beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def image_generator(seed: int, *key: str | int) -> torch.Generator:
    """A generator, on the CPU, that depends on `seed` and on the words and numbers of `key` alone."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def uniforms(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """One block of uniform numbers in [0, 1) from each generator, `float32 [len(generators), *shape]`."""
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])
