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
        teacher: normalised features `float [N, C, H, W]`.
        student: the student's prediction of them; differences are taken in the wider type of the two.
        quantile: share of the elements that is left out.
    """
    with torch.no_grad():
        # Any order will do for a quantile: this one costs no copy in channels-last memory.
        distance = (teacher - student).square().permute(0, 2, 3, 1).flatten(1)
        hard = distance >= row_quantiles(distance, quantile)[:, None]
        image, place = hard.nonzero(as_tuple=True)
        weight = (len(hard) * hard.sum(dim=1)).to(distance.dtype).reciprocal()[image]
    # Gradients flow through the hard elements alone: a thousandth of the map.
    truth, found = (maps.permute(0, 2, 3, 1).flatten(1)[image, place] for maps in (teacher, student))
    return ((truth - found).square() * weight).sum()


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
