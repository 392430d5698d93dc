"""EfficientAD's losses (paper, algorithm 1): pure functions of feature maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hard_feature_loss(teacher: Tensor, student: Tensor, quantile: float) -> Tensor:
    """Mean of each image's largest squared differences, averaged over the batch.

    The limit is the exact quantile (linear between order statistics, as in `numpy.quantile`) of all
    `C * H * W` squared differences of an image.

    Args:
        teacher: normalised features `float [N, C, H, W]`.
        student: the student's prediction of them; differences use the wider dtype of the two.
        quantile: share of the elements to leave out.
    """
    with torch.no_grad():
        # A quantile allows any order: this one avoids a copy of channels-last memory.
        distance = (teacher - student).square().permute(0, 2, 3, 1).flatten(1)
        hard = distance >= row_quantiles(distance, quantile)[:, None]
        image, place = hard.nonzero(as_tuple=True)
        weight = (len(hard) * hard.sum(dim=1)).to(distance.dtype).reciprocal()[image]
    # Gradients flow only through the hard elements: a thousandth of the map.
    truth, found = (maps.permute(0, 2, 3, 1).flatten(1)[image, place] for maps in (teacher, student))
    return ((truth - found).square() * weight).sum()


def row_quantiles(values: Tensor, quantile: float) -> Tensor:
    """Exact quantile of each row of `float [N, M]`; unlike `torch.quantile`, for any M."""
    count = values.shape[1]
    position = quantile * (count - 1)
    below = math.floor(position)
    largest = values.topk(count - below, dim=1).values
    low = largest[:, -1]
    high = largest[:, -2] if count - below > 1 else low
    return torch.lerp(low, high, position - below)


def penalty_loss(student: Tensor) -> Tensor:
    """Mean square of the student's teacher half on natural images, `float32 [N, C, H, W]`.

    Keeps the student from imitating the teacher beyond the normal images.
    """
    return student.square().mean()


def distance_loss(target: Tensor, prediction: Tensor) -> Tensor:
    """Mean squared difference of two feature maps, for the autoencoder's and the imitation loss."""
    return (target - prediction).square().mean()
