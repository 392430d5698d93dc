"""Chooses a trained detector's map scales, map weights and threshold on images that no training used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from metaldefect.efficientad.anomaly_map import combine_maps
from metaldefect.efficientad.residual_metric import Maps, cross_fitted_maps, fold_metric, keep_pair, whitening
from metaldefect.efficientad.thresholds import Target, Threshold, choose_threshold
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.errors import UserError
from metaldefect.images import U8, ImageSize, height_and_width, resize, to_imagenet_range
from metaldefect.inspection.provider import InspectionImage
from metaldefect.inspection.tiles import number_wholes
from metaldefect.on_disk import DiskStore, zeros_on_disk

MAPS = ("student", "autoencoder")
MAP_QUANTILES = (0.9, 0.995)
PAPER_SHARE = 0.5
# Candidate weights of the student-teacher map; the autoencoder map gets the rest.
STUDENT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Metrics of the residual to choose among, in units of its mean variance; 0 stands for the paper's score.
RIDGES = (10.0, 1.0, 0.1, 0.003)
PAPER_SCORE = 0.0
CLEARLY = 0.02
# With fewer images of either kind, an AUROC is too coarse to choose by.
FEWEST_IMAGES = 10


@dataclass(frozen=True)
class CalibrationImages:
    """Held-out images to calibrate with, `uint8 [N, H, W]` or `[N, H, W, 3]` at the detector's size.

    Attributes:
        normals: good images that no training used.
        scenes: scene of each normal.
        defects: inserted defects; may be empty.
        defect_scenes: scene of each defect's canvas.
        wholes: number of the image that each normal is a tile of, ascending from 0 at its first tile; None:
            every normal is a whole image.
    """

    normals: U8
    scenes: Sequence[str]
    defects: U8
    defect_scenes: Sequence[str]
    wholes: Sequence[int] | None = None

    @classmethod
    def of(
        cls, normals: Sequence[InspectionImage], defects: Sequence[InspectionImage], size: ImageSize
    ) -> CalibrationImages:
        """Images of a provider, resized and in temporary files."""
        good, normal_items = stack_on_disk(normals, size)
        bad, defect_items = stack_on_disk(defects, size)
        return cls(
            good,
            [item.scene for item in normal_items],
            bad,
            [item.scene for item in defect_items],
            number_wholes(normal_items),
        )

    def whole_scores(self, normals: Sequence[float], defects: Sequence[float]) -> Scores:
        """Scores of whole images: the largest of an image's tiles; a defect's tile speaks for its image."""
        largest: dict[int, float] = {}
        scenes: dict[int, str] = {}
        wholes = range(len(normals)) if self.wholes is None else self.wholes
        for whole, score, scene in zip(wholes, normals, self.scenes, strict=True):
            largest[whole] = max(score, largest.get(whole, score))
            scenes[whole] = scene
        return Scores(list(largest.values()), list(scenes.values()), list(defects))

    def judges(self) -> tuple[NDArray[np.intp], str]:
        """The normals that the map weights are chosen by, and which these are, in words.

        Those of other scenes than the defects' canvases, if there are enough; else all.
        """
        canvases = set(self.defect_scenes)
        other = np.flatnonzero([scene not in canvases for scene in self.scenes])
        if len(other) >= FEWEST_IMAGES:
            return other, "normals of other scenes"
        return np.arange(len(self.normals)), "the normals"


def stack_on_disk(items: Sequence[InspectionImage], size: ImageSize) -> tuple[U8, list[InspectionImage]]:
    """The resized images of items as one array in a temporary file, and the items with these images."""
    stack: U8 = np.empty((0, *height_and_width(size)), np.uint8)
    found: list[InspectionImage] = []
    for index, item in enumerate(items):
        image = resize(item.image, size)
        if not found:
            stack = zeros_on_disk((len(items), *image.shape), np.uint8)
        stack[index] = image
        found.append(item._replace(image=stack[index], mask=None))
    return stack, found


@dataclass(frozen=True)
class Scores:
    """Scores of the calibration images, from which a threshold can be chosen again without the images.

    Attributes:
        normals: one per good image.
        scenes: their scenes.
        defects: one per inserted defect.
    """

    normals: list[float]
    scenes: list[str]
    defects: list[float]

    def threshold(self, target: Target) -> Threshold:
        """The threshold for a target."""
        return choose_threshold(self.normals, self.defects, target, len(set(self.scenes)))

    def quantile(self, threshold: float) -> float:
        """The share of the good images at or below a threshold."""
        return float(np.mean(np.array(self.normals) <= threshold))


@dataclass(frozen=True)
class PapersScore:
    """What gives the networks before a calibration the paper's score: plain residual, both maps at half.

    Attributes:
        map_quantiles: q_a and q_b of each map of `MAPS`, measured on the plain residual.
        is_the_detectors: the calibration chose this very score.
    """

    map_quantiles: dict[str, list[float]]
    is_the_detectors: bool


@dataclass(frozen=True)
class Calibration:
    """The values chosen for a detector, and how they were chosen.

    Attributes:
        threshold: scores above it are anomalous.
        student_share: weight of the student-teacher map; the autoencoder map gets the rest.
        record: each choice's value, method and number of images.
        scores: of the calibration images, with the chosen scales and weights: as new images would score.
        deployed: the same by the final networks, which may have fitted a covariance to these very images and
            then score them lower than new ones.
        papers: what the same networks need for the paper's score.
    """

    threshold: float
    student_share: float
    record: dict[str, Any]
    scores: Scores
    deployed: Scores
    papers: PapersScore


def calibrate(
    model: EfficientAD, images: CalibrationImages, target: Target, ridges: Sequence[float] = ()
) -> Calibration:
    """Set the model's map scales and map weights, and choose the threshold.

    The scales come from normal images only (paper, section 3.4). The weights maximise the image AUROC of
    inserted defects against normals; with too few of either, they are the paper's. A target of false alarms
    needs only normals, one of costs also the inserted defects.

    Args:
        model: trained, in evaluation mode; this sets its `quantiles` and `map_weights`, and changes its last
            convolutions if another metric of the residual is chosen.
        images: what to calibrate with.
        target: what the threshold is for.
        ridges: other metrics of the residual to choose among (see `residual_metric`); by default, the paper's
            score is the only one.

    Raises:
        UserError: there are no normal images.
    """
    judges, which = images.judges()
    plain = maps_of(model, images.normals), maps_of(model, images.defects)
    found = {PAPER_SCORE: choose_weights(model, *plain, judges, which)}
    covariance = None
    enough = min(len(judges), len(images.defects)) >= FEWEST_IMAGES and len(set(images.scenes)) > 1
    if ridges and enough:
        maps, covariance = cross_fitted_maps(
            model, images.normals, images.scenes, images.defects, images.defect_scenes, ridges
        )
        found |= {ridge: choose_weights(model, *pair, judges, which) for ridge, pair in maps.items()}
    metric = choose_metric({name: one.auroc for name, one in found.items()})
    chosen = found[metric]
    if covariance is not None and metric != PAPER_SCORE:
        fold_metric(model, whitening(covariance, metric))
    model.quantiles.copy_(chosen.quantiles)
    model.map_weights.copy_(torch.tensor([chosen.share, 1.0 - chosen.share]))
    kept = deployed = images.whole_scores(chosen.normals.tolist(), chosen.defects.tolist())
    if metric != PAPER_SCORE:
        folded = maps_of(model, images.normals), maps_of(model, images.defects)
        deployed = images.whole_scores(*(share_scores(model, maps, chosen.share).tolist() for maps in folded))
    threshold = kept.threshold(target)
    record = {
        "map_scales": {
            "method": f"{MAP_QUANTILES[0]} and {MAP_QUANTILES[1]} quantiles of the normals' pixels, per map",
            "normals": len(images.normals),
        },
        "map_weights": chosen.record,
        "residual_metric": metric_record(metric, found, asked=bool(ridges), enough=enough),
        "threshold": threshold_record(threshold, kept, target),
    }
    papers = PapersScore(
        dict(zip(MAPS, found[PAPER_SCORE].quantiles.tolist(), strict=True)),
        is_the_detectors=metric == PAPER_SCORE and chosen.share == PAPER_SHARE,
    )
    return Calibration(threshold.value, chosen.share, record, kept, deployed, papers)


@torch.no_grad()
def with_papers_score(model: EfficientAD, papers: PapersScore) -> EfficientAD:
    """Set plain networks up for the paper's score: their own map scales, both maps at half; returns them.

    Args:
        model: the trained networks before the calibration, which may fold a covariance into them.
        papers: from that calibration.
    """
    model.quantiles.copy_(torch.tensor([papers.map_quantiles[name] for name in MAPS]))
    model.map_weights.fill_(PAPER_SHARE)
    return model


@dataclass(frozen=True)
class Weighed:
    """One metric of the residual with the best weights of the two maps.

    Attributes:
        quantiles: the map scales.
        share: weight of the student-teacher map.
        normals: scores of the normals, defects: of the defects.
        record: how the weights were chosen.
    """

    quantiles: Tensor
    share: float
    normals: NDArray[np.float64]
    defects: NDArray[np.float64]
    record: dict[str, Any]

    @property
    def auroc(self) -> float:
        """Image AUROC of the inserted defects; 0 if there were too few images to measure it."""
        by_share = self.record.get("image_auroc_by_student_share", {})
        return float(max(by_share.values(), default=0.0))


def choose_weights(
    model: EfficientAD, normal_maps: Maps, defect_maps: Maps, judges: NDArray[np.intp], which: str
) -> Weighed:
    """Scale the maps and choose their weights; leaves the scales in the model."""
    set_map_quantiles(model, normal_maps)
    scores = {
        share: (share_scores(model, normal_maps, share), share_scores(model, defect_maps, share))
        for share in STUDENT_SHARES
    }
    share, record = choose_student_share(scores, judges, which)
    return Weighed(model.quantiles.clone(), share, *scores[share], record)


def choose_metric(aurocs: Mapping[float, float]) -> float:
    """The metric with the largest AUROC; the paper's unless another is better by more than `CLEARLY`."""
    best = max(aurocs, key=lambda name: aurocs[name])
    return best if aurocs[best] - aurocs[PAPER_SCORE] > CLEARLY else PAPER_SCORE


def metric_record(
    metric: float, found: Mapping[float, Weighed], *, asked: bool, enough: bool
) -> dict[str, Any]:
    """Which metric of the residual was chosen, and how; always names the paper's score."""
    name = "the paper's" if metric == PAPER_SCORE else f"covariance with ridge {metric:g}"
    if not asked:
        return {"chosen": name, "method": "the paper's, as no other was asked for"}
    if not enough:
        return {"chosen": name, "method": "the paper's: too few images to choose by"}
    return {
        "chosen": name,
        "method": f"largest image AUROC of inserted defects, by more than {CLEARLY} over the paper's score",
        "image_auroc_paper_score": found[PAPER_SCORE].auroc,
        "image_auroc_by_ridge": {f"{key:g}": one.auroc for key, one in found.items() if key != PAPER_SCORE},
    }


def threshold_record(threshold: Threshold, scores: Scores, target: Target) -> dict[str, Any]:
    """What a threshold is for, how it was chosen, and from how many images."""
    counts = {
        "normals": len(scores.normals),
        "scenes": len(set(scores.scenes)),
        "defects": len(scores.defects),
    }
    return {**threshold.record(), **counts, "target": target.record()}


@torch.inference_mode()
def fit_map_quantiles(model: EfficientAD, images: U8) -> list[tuple[Tensor, Tensor]]:
    """Set the model's map normalisation from held-out normal images (paper, section 3.4).

    q_a and q_b are the exact 0.9 and 0.995 quantiles of all pixels of the maps at image size.

    Args:
        model: trained.
        images: `uint8 [N, H, W]` or `[N, H, W, 3]`.

    Returns:
        Both maps of each image, unscaled.

    Raises:
        UserError: there are no images.
    """
    maps = maps_of(model, images)
    set_map_quantiles(model, maps)
    return maps


def set_map_quantiles(model: EfficientAD, maps: Maps) -> None:
    """Set the model's map normalisation from the maps of held-out normal images.

    Raises:
        UserError: there are no maps.
    """
    if not maps:
        raise UserError("no validation normals: the anomaly map cannot be normalised without them")
    quantiles = []
    for one in zip(*maps, strict=True):
        pixels = pixels_on_disk(one)
        quantiles.append(np.quantile(pixels, MAP_QUANTILES, overwrite_input=True))  # spares a copy
    model.quantiles.copy_(torch.tensor(np.stack(quantiles)))


def pixels_on_disk(maps: Sequence[Tensor]) -> NDArray[np.float32]:
    """All pixels of maps, `float32 [P]`, in a temporary file."""
    pixels = zeros_on_disk((sum(one.numel() for one in maps),), np.float32)
    start = 0
    for one in maps:
        pixels[start : start + one.numel()] = one.cpu().numpy().ravel()
        start += one.numel()
    return pixels


@torch.inference_mode()
def maps_of(model: EfficientAD, images: U8) -> list[tuple[Tensor, Tensor]]:
    """Both maps of each image, at image size and unscaled, `float32 [1, 1, H, W]` each, on disk."""
    device, store = model.quantiles.device, DiskStore()
    return [keep_pair(store, model.image_maps(to_imagenet_range(image[None]).to(device))) for image in images]


def share_scores(
    model: EfficientAD, maps: Sequence[tuple[Tensor, Tensor]], student_share: float
) -> NDArray[np.float64]:
    """Score of each image with this share of the student-teacher map."""
    quantiles = model.quantiles.cpu()  # as the maps are
    weights = torch.tensor([student_share, 1.0 - student_share])
    return np.array([float(combine_maps(*pair, quantiles, weights).max()) for pair in maps])


def choose_student_share(
    scores: Mapping[float, tuple[NDArray[np.float64], NDArray[np.float64]]],
    judges: NDArray[np.intp],
    which: str,
) -> tuple[float, dict[str, Any]]:
    """Return the share with the largest image AUROC (if tied, the nearest to the paper's), and the record.

    Args:
        scores: of the normals and of the defects, by share of the student-teacher map.
        judges: the normals to compare the defects with.
        which: what these are, in words.
    """
    counts = {"normals": len(judges), "defects": len(scores[PAPER_SHARE][1])}
    if min(counts.values()) < FEWEST_IMAGES:
        method = (
            f"the paper's 0.5 and 0.5: {counts['defects']} inserted defects and {counts['normals']} normals,"
            f" at least {FEWEST_IMAGES} of each are needed to choose by"
        )
        return PAPER_SHARE, {"student": PAPER_SHARE, "autoencoder": PAPER_SHARE, "method": method, **counts}
    truth = np.repeat([False, True], list(counts.values()))
    aurocs = {
        share: float(roc_auc_score(truth, np.concatenate([normals[judges], defects])))
        for share, (normals, defects) in scores.items()
    }
    best = max(aurocs, key=lambda share: (aurocs[share], -abs(share - PAPER_SHARE)))
    return best, {
        "student": best,
        "autoencoder": 1.0 - best,
        "method": f"largest image AUROC of inserted defects against {which}",
        "image_auroc_by_student_share": {f"{share:g}": round(value, 6) for share, value in aurocs.items()},
        **counts,
    }
