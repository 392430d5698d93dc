"""Which positions training hides: scattered by the arccos ratio, a solid rectangle, or an image's defects."""

from __future__ import annotations

import json

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from metaldefect.images import U8
from metaldefect.maskgit.schedule import arccos_mask_ratio

TOUCHING = np.ones((3, 3), bool)  # cells that touch at a corner are of one defect


def training_mask(
    batch: int,
    grid: int,
    rectangle_share: float,
    defects: Tensor | None = None,
    hidden_defect_share: float = 0.0,
) -> Tensor:
    """Masks `bool [batch, grid^2]`, True where hidden; each sample has at least one hidden position.

    Hides each sample either position by position (Bernoulli with an arccos-distributed ratio) or, in
    `rectangle_share` of cases, as one rectangle, as inpainting does. Of the samples whose defects are known,
    `hidden_defect_share` hide one defect or all of them instead, and nothing else: so a model learns that
    what is missing amid good metal is a defect, which is what inserting one asks for. Uses torch's global
    generator, which training reseeds at every step.

    Args:
        batch: number of samples.
        grid: side of the token grid.
        rectangle_share: in [0, 1].
        defects: cells of each sample's defects, `bool [batch, grid, grid]`, all False where they are unknown.
        hidden_defect_share: in [0, 1].
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
    if defects is not None and hidden_defect_share > 0:
        known = defects.flatten(1).any(dim=1).cpu()
        for i in (known & (torch.rand(batch) < hidden_defect_share)).nonzero().flatten().tolist():
            mask[i] = torch.from_numpy(hole(defects[i].cpu().numpy())).flatten()
    empty = ~mask.any(dim=1)
    mask[empty, 0] = True
    return mask


def hole(defects: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells of one defect or of all, by chance with the cells around, as a feathered brush hides them."""
    one, wide = (torch.rand(2) < 0.5).tolist()
    if one:
        parts, count = ndimage.label(defects, TOUCHING)
        defects = parts == 1 + int(torch.randint(0, count, ()))
    return np.asarray(ndimage.binary_dilation(defects, TOUCHING) if wide else defects)


def defect_cells(mask: U8 | None, boxes: str, side: int, grid: int) -> NDArray[np.bool_]:
    """Token cells that an image's defects touch, `bool [grid, grid]`.

    Args:
        mask: of the defects, `uint8 [side, side]`; None if it is unknown, then the boxes count.
        boxes: as in the table of samples: a JSON list, in pixels.
        side: of the image in pixels.
        grid: side of the token grid.
    """
    cells = np.zeros((grid, grid), bool)
    if mask is not None:
        rows, columns = np.nonzero(mask > 127)
        cells[rows * grid // side, columns * grid // side] = True
        return cells
    for box in json.loads(boxes):
        left, top = (min(int(box[name] * grid / side), grid - 1) for name in ("xmin", "ymin"))
        right, bottom = (int(np.ceil(box[name] * grid / side)) for name in ("xmax", "ymax"))
        cells[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return cells
