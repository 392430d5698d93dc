"""Resize, scale and weight two raw maps into one anomaly map, the same way in torch and in the export."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy
from torch.nn import functional


def resize_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of maps `[N, 1, H', W']` to (height, width); the only filter for anomaly maps."""
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def map_to_size(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """`resize_map` for one array `float32 [H', W']`."""
    if anomaly_map.shape == size:
        return anomaly_map
    return resize_map(from_numpy(anomaly_map)[None, None], size)[0, 0].numpy()


def scale_maps(student_map: Tensor, autoencoder_map: Tensor, quantiles: Tensor) -> tuple[Tensor, Tensor]:
    """Scale both maps so that q_a becomes 0 and q_b becomes 0.1 (paper, section 3.4).

    Args:
        student_map: `float32 [N, 1, H, W]`.
        autoencoder_map: same shape.
        quantiles: q_a and q_b of the student-teacher map, then of the autoencoder map, `float32 [2, 2]`.
    """
    low, high = quantiles[:, 0], quantiles[:, 1]
    scale = 0.1 / (high - low)
    return (student_map - low[0]) * scale[0], (autoencoder_map - low[1]) * scale[1]


def combine_maps(student_map: Tensor, autoencoder_map: Tensor, quantiles: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the two scaled maps (weights in the paper: 0.5 and 0.5).

    Args:
        student_map: `float32 [N, 1, H, W]`.
        autoencoder_map: same shape.
        quantiles: as in `scale_maps`.
        weights: of the student-teacher and of the autoencoder map, `float32 [2]`, with sum 1.
    """
    student, autoencoder = scale_maps(student_map, autoencoder_map, quantiles)
    return weights[0] * student + weights[1] * autoencoder
