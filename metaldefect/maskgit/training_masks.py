"""Which positions training hides: scattered by the arccos ratio, or a solid rectangle."""

from __future__ import annotations

import torch
from torch import Tensor

from metaldefect.maskgit.schedule import arccos_mask_ratio


def training_mask(batch: int, grid: int, rectangle_share: float) -> Tensor:
    """Masks `bool [batch, grid^2]`, True where hidden; each sample has at least one hidden position.

    Hides each sample either position by position (Bernoulli with an arccos-distributed ratio) or, in
    `rectangle_share` of cases, as one rectangle, as inpainting does. Uses torch's global generator, which
    training reseeds at every step.
    """
    ratio = arccos_mask_ratio(torch.rand(batch, 1))
    mask = torch.rand(batch, grid * grid) < ratio
    for i in (torch.rand(batch) < rectangle_share).nonzero().flatten().tolist():
        height, width = torch.randint(2, max(3, grid * 3 // 4), (2,)).tolist()
        top = int(torch.randint(0, grid - height + 1, ()))
        left = int(torch.randint(0, grid - width + 1, ()))
        rectangle = torch.zeros(grid, grid, dtype=torch.bool)
        rectangle[top : top + height, left : left + width] = True
        mask[i] = rectangle.flatten()
    empty = ~mask.any(dim=1)
    mask[empty, 0] = True
    return mask
