"""Random numbers per drawn image: an image stays the same whatever else its batch contains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def image_generator(seed: int, *key: str | int) -> torch.Generator:
    """Return a CPU generator that depends only on `seed` and on the words and numbers of `key`."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def uniforms(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Draw one block of uniforms in [0, 1) per generator, `float32 [len(generators), *shape]`."""
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])
