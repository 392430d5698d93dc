"""EfficientAD's losses (paper, algorithm 1): pure functions of feature maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HARD_QUANTILE = 0.999


def hard_feature_loss(teacher: Tensor, student: Tensor, quantile: float = HARD_QUANTILE) -> Tensor:
    """Mean of each image's largest squared differences, averaged over the batch.

    The limit is the exact quantile (linear between order statistics, as `numpy.quantile`) of all
    `C * H * W` squared differences of that image, whatever their number.

    Args:
        teacher: normalised features `float32 [N, C, H, W]`.
        student: the student's prediction of them.
        quantile: share of the elements that is left out.
    """
    distance = (teacher - student).square().flatten(1)
    limit = row_quantiles(distance.detach(), quantile)
    hard = distance >= limit[:, None]
    return ((distance * hard).sum(dim=1) / hard.sum(dim=1)).mean()


def row_quantiles(values: Tensor, quantile: float) -> Tensor:
    """Exact quantile of each row of `float [N, M]`; unlike `torch.quantile`, for M of any size."""
    count = values.shape[1]
    position = quantile * (count - 1)
    below = math.floor(position)
    largest = values.topk(count - below, dim=1).values
    low = largest[:, -1]
    high = largest[:, -2] if count - below > 1 else low
    return torch.lerp(low, high, position - below)


def penalty_loss(student: Tensor) -> Tensor:
    """Mean square of the student's teacher half on natural images, `float32 [N, C, H, W]`.

    It keeps the student from imitating the teacher beyond the normal images.
    """
    return student.square().mean()


def distance_loss(target: Tensor, prediction: Tensor) -> Tensor:
    """Mean squared difference of two feature maps: the losses of the autoencoder and of its imitation."""
    return (target - prediction).square().mean()
