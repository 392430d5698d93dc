"""What is chosen after a detector's training, on images that no training saw: scales, weights, threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from metaldefect.efficientad.anomaly_map import combine_maps
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.errors import UserError
from metaldefect.images import U8, to_imagenet_range

MAP_QUANTILES = (0.9, 0.995)
PAPER_SHARE = 0.5
# Shares of the student-teacher map that are tried; the rest is the autoencoder map's.
STUDENT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# With fewer images of either kind an AUROC is too coarse to choose by.
FEWEST_IMAGES = 10


@dataclass(frozen=True)
class Calibration:
    """What was chosen for a detector, and from what.

    Attributes:
        threshold: scores above it are anomalous.
        student_share: weight of the student-teacher map; the autoencoder map has the rest.
        record: for each choice what it is, how it was made and from how many images.
    """

    threshold: float
    student_share: float
    record: dict[str, Any]


def calibrate(model: EfficientAD, normals: U8, defects: U8, threshold_quantile: float) -> Calibration:
    """Set the model's map scales and map weights, and choose the threshold.

    The scales and the threshold come from normal images alone (paper, section 3.4). The weights come from
    the image AUROC of inserted defects against the normals; where there are too few of either, they are
    the paper's.

    Args:
        model: trained, in evaluation mode; its `quantiles` and `map_weights` are set.
        normals: held-out normal images, grey `uint8 [N, H, W]`.
        defects: inserted defects on other canvases, grey `uint8 [M, H, W]`; may be empty.
        threshold_quantile: the threshold is this quantile of the normals' scores.

    Raises:
        UserError: there is no normal image.
    """
    normal_maps = fit_map_quantiles(model, normals)
    scores = {share: share_scores(model, normal_maps, share) for share in STUDENT_SHARES}
    share, weights_record = choose_student_share(model, scores, defects)
    model.map_weights.copy_(torch.tensor([share, 1.0 - share]))
    threshold = float(np.quantile(scores[share], threshold_quantile))
    record = {
        "map_scales": {
            "method": f"{MAP_QUANTILES[0]} and {MAP_QUANTILES[1]} quantiles of the normals' pixels, per map",
            "normals": len(normals),
        },
        "map_weights": weights_record,
        "threshold": {
            "value": threshold,
            "method": f"{threshold_quantile} quantile of the normals' scores",
            "normals": len(normals),
        },
    }
    return Calibration(threshold, share, record)


@torch.inference_mode()
def fit_map_quantiles(model: EfficientAD, images: U8) -> list[tuple[Tensor, Tensor]]:
    """Set the model's map normalisation from held-out normal images (paper, section 3.4).

    q_a and q_b are the exact 0.9 and 0.995 quantiles of all pixels of the maps at image size.

    Args:
        model: trained.
        images: grey `uint8 [N, H, W]`.

    Returns:
        Both maps of each image, before scaling.

    Raises:
        UserError: there is no image.
    """
    if not len(images):
        raise UserError("no validation normals: the anomaly map cannot be normalised without them")
    maps = maps_of(model, images)
    values = (torch.cat(one).cpu().numpy().ravel() for one in zip(*maps, strict=True))
    model.quantiles.copy_(torch.tensor(np.stack([np.quantile(v, MAP_QUANTILES) for v in values])))
    return maps


@torch.inference_mode()
def maps_of(model: EfficientAD, images: U8) -> list[tuple[Tensor, Tensor]]:
    """Both maps of each image, at image size and before scaling, `float32 [1, 1, H, W]` each."""
    device = model.quantiles.device
    return [model.image_maps(to_imagenet_range(np.array(image[None])).to(device)) for image in images]


def share_scores(
    model: EfficientAD, maps: Sequence[tuple[Tensor, Tensor]], student_share: float
) -> NDArray[np.float64]:
    """Each image's score where the student-teacher map has this share."""
    weights = torch.tensor([student_share, 1.0 - student_share], device=model.quantiles.device)
    return np.array([float(combine_maps(*pair, model.quantiles, weights).max()) for pair in maps])


def choose_student_share(
    model: EfficientAD, normal_scores: dict[float, NDArray[np.float64]], defects: U8
) -> tuple[float, dict[str, Any]]:
    """The share whose image AUROC is largest, of equal ones the nearest to the paper's; and the record."""
    counts = {"normals": len(normal_scores[PAPER_SHARE]), "defects": len(defects)}
    if min(counts.values()) < FEWEST_IMAGES:
        method = (
            f"the paper's 0.5 and 0.5: {counts['defects']} inserted defects and {counts['normals']} normals,"
            f" at least {FEWEST_IMAGES} of each are needed to choose by"
        )
        return PAPER_SHARE, {"student": PAPER_SHARE, "autoencoder": PAPER_SHARE, "method": method, **counts}
    maps = maps_of(model, defects)
    truth = np.repeat([False, True], list(counts.values()))
    aurocs = {
        share: float(roc_auc_score(truth, np.concatenate([scores, share_scores(model, maps, share)])))
        for share, scores in normal_scores.items()
    }
    best = max(aurocs, key=lambda share: (aurocs[share], -abs(share - PAPER_SHARE)))
    return best, {
        "student": best,
        "autoencoder": 1.0 - best,
        "method": "largest image AUROC of inserted defects against the normals",
        "image_auroc_by_student_share": {f"{share:g}": round(value, 6) for share, value in aurocs.items()},
        **counts,
    }
