"""Chooses a trained detector's map scales, map weights and threshold on images that no training used."""

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
# Candidate weights of the student-teacher map; the autoencoder map gets the rest.
STUDENT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# With fewer images of either kind, an AUROC is too coarse to choose by.
FEWEST_IMAGES = 10


@dataclass(frozen=True)
class Calibration:
    """The values chosen for a detector, and how they were chosen.

    Attributes:
        threshold: scores above it are anomalous.
        student_share: weight of the student-teacher map; the autoencoder map gets the rest.
        record: each choice's value, method and number of images.
    """

    threshold: float
    student_share: float
    record: dict[str, Any]


def calibrate(model: EfficientAD, normals: U8, defects: U8, threshold_quantile: float) -> Calibration:
    """Set the model's map scales and map weights, and choose the threshold.

    The scales and the threshold come from normal images only (paper, section 3.4). The weights maximise the
    image AUROC of inserted defects against the normals; with too few of either, they are the paper's.

    Args:
        model: trained, in evaluation mode; this sets its `quantiles` and `map_weights`.
        normals: held-out normal images, grey `uint8 [N, H, W]`.
        defects: inserted defects on other canvases, grey `uint8 [M, H, W]`; may be empty.
        threshold_quantile: the threshold is this quantile of the normals' scores.

    Raises:
        UserError: there are no normal images.
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
        Both maps of each image, unscaled.

    Raises:
        UserError: there are no images.
    """
    if not len(images):
        raise UserError("no validation normals: the anomaly map cannot be normalised without them")
    maps = maps_of(model, images)
    values = (torch.cat(one).cpu().numpy().ravel() for one in zip(*maps, strict=True))
    model.quantiles.copy_(torch.tensor(np.stack([np.quantile(v, MAP_QUANTILES) for v in values])))
    return maps


@torch.inference_mode()
def maps_of(model: EfficientAD, images: U8) -> list[tuple[Tensor, Tensor]]:
    """Both maps of each image, at image size and unscaled, `float32 [1, 1, H, W]` each."""
    device = model.quantiles.device
    return [model.image_maps(to_imagenet_range(np.array(image[None])).to(device)) for image in images]


def share_scores(
    model: EfficientAD, maps: Sequence[tuple[Tensor, Tensor]], student_share: float
) -> NDArray[np.float64]:
    """Score of each image with this share of the student-teacher map."""
    weights = torch.tensor([student_share, 1.0 - student_share], device=model.quantiles.device)
    return np.array([float(combine_maps(*pair, model.quantiles, weights).max()) for pair in maps])


def choose_student_share(
    model: EfficientAD, normal_scores: dict[float, NDArray[np.float64]], defects: U8
) -> tuple[float, dict[str, Any]]:
    """Return the share with the largest image AUROC (if tied, the nearest to the paper's), and the record."""
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
