"""The light on training images, by class, stored beside the model that draws with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.artifacts import atomic_file
from metaldefect.images import Channels, decoded_levels
from metaldefect.tokenizer.model import spread

FIELDS = "fields.safetensors"
PER_CLASS = 200  # more would only make the file larger


def light_levels(fields: Tensor, size: int, channels: Channels = 1) -> Tensor:
    """The light that fields `[N, 3, field, field]` describe, in levels of [0, 255].

    Zero where the tokenizer has no field (`field` is 0): then the light is in its tokens.

    Returns:
        `float32 [N, size, size]`, or with three channels `[N, size, size, 3]`.
    """
    if not fields.shape[-1]:
        return torch.zeros(len(fields), size, size, *([3] if channels == 3 else []))
    return torch.from_numpy(decoded_levels(spread(fields, (size, size)), channels))


def plane_of(field: Tensor, channels: Channels = 1) -> Tensor:
    """The plane nearest to each channel of `float [N, C, F, F]` in the least-squares sense, same shape.

    With three `channels`, the plane nearest to their mean, in one hue: the median over the cells. A red
    blotch would tint the light on the metal around it, and a piece of that metal without the blotch would
    look green in the light of another image.
    """
    side = field.shape[-1]
    if not side:
        return field
    along = torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1)
    ones = torch.ones(side, side)
    basis = torch.stack([ones, ones * along, ones * along[:, None]]).flatten(1)
    norms = basis.square().sum(1).clamp(min=1e-6)
    weights = field.float().flatten(2) @ basis.t() / norms  # the three functions are orthogonal
    planes = (weights @ basis).view(field.shape)
    if channels == 1:
        return planes
    hues = (field - field.mean(dim=1, keepdim=True)).float().flatten(2)
    return planes.mean(dim=1, keepdim=True) + hues.quantile(0.5, dim=2)[..., None, None]


def fields_by_class(fields: NDArray[np.float16], labels: Sequence[str]) -> dict[str, Tensor]:
    """At most `PER_CLASS` fields of each class, evenly spaced.

    Args:
        fields: one per image, `float16 [N, 3, field, field]`.
        labels: class of each image.
    """
    names = np.asarray(labels)
    found = {}
    for name in dict.fromkeys(labels):
        numbers = np.flatnonzero(names == name)
        chosen = numbers[np.linspace(0, len(numbers) - 1, min(PER_CLASS, len(numbers))).astype(np.int64)]
        found[name] = torch.from_numpy(np.ascontiguousarray(fields[chosen]))
    return found


def save_fields(fields: Mapping[str, Tensor], directory: Path) -> None:
    """Write `fields.safetensors`, a `float16 [n, 3, field, field]` per class; no file without any."""
    if not fields:
        return
    with atomic_file(directory / FIELDS) as temporary:
        safetensors.torch.save_file(dict(fields), temporary)


def load_fields(directory: Path) -> dict[str, Tensor]:
    """Read what `save_fields` wrote; empty if the model was trained without fields."""
    path = directory / FIELDS
    return safetensors.torch.load_file(path) if path.is_file() else {}
