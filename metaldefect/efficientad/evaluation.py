"""Score a test set with a detector, and compute its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.efficientad.calibration import PapersScore, fit_map_quantiles
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.hardware import autocast, device_of
from metaldefect.images import U8, ImageSize, resize
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import InspectionImage
from metaldefect.kernels.switch import cpu_kernels, is_on_cpu
from metaldefect.metrics import detection
from metaldefect.on_disk import DiskStore
from metaldefect.tiling import score_tiles

CURVE_POINTS = 400
PAPERS_METRICS = ("image_auroc", "au_pro", "f1_max")


@dataclass
class Scored:
    """A scored test image; the map has the image's own size."""

    image: U8
    mask: NDArray[np.bool_]
    label: str
    name: str
    scene: str
    score: float
    anomaly_map: NDArray[np.float32]

    @property
    def is_defective(self) -> bool:
        """Whether the image's label is not `good`."""
        return self.label != GOOD


@torch.inference_mode()
def quick_auroc(model: EfficientAD, validation: U8, test: U8, defective: Sequence[bool]) -> float:
    """Image AUROC in the machine's fastest precision, for following a training.

    Sets the model's map normalisation from `validation`.

    Args:
        model: in evaluation mode.
        validation: held-out normal images, `uint8 [N, H, W]` or `[N, H, W, 3]`.
        test: images of the same size, good and defective.
        defective: whether each test image is defective.
    """
    with autocast(device_of(model)), cpu_kernels(model, enabled=is_on_cpu(model)):
        fit_map_quantiles(model, validation)
        scores = [infer(model, image)[0] for image in test]
    return detection.auroc(scores, list(defective))


def score_images(
    detect: Callable[[U8], tuple[float, NDArray[np.float32]]],
    images: Sequence[InspectionImage],
    size: ImageSize,
    description: str,
    tiles: int | None = None,
) -> list[Scored]:
    """Score every image with `detect`, which takes images of `size`; maps come back at image size.

    Images, masks and maps lie in temporary files, so memory does not grow with the number of images.

    With `tiles`, images are cut into tiles that share so many pixels, instead of being resized.
    """
    scored, store = list[Scored](), DiskStore()
    for item in tqdm(images, desc=description, unit="image"):
        shape = (item.image.shape[0], item.image.shape[1])
        mask = np.zeros(shape, bool) if item.mask is None else item.mask
        if tiles is None:
            score, anomaly_map = detect(resize(item.image, size))
            full_map = map_to_size(anomaly_map, shape)
        else:
            score, full_map = score_tiles(partial(map, detect), item.image, size, tiles)
        arrays = store.keep(item.image), store.keep(mask), store.keep(full_map)
        scored.append(Scored(arrays[0], arrays[1], item.label, item.name, item.scene, score, arrays[2]))
    return scored


def score_test_images(
    model: EfficientAD,
    images: Sequence[InspectionImage],
    size: ImageSize,
    description: str,
    tiles: int | None = None,
) -> list[Scored]:
    """`score_images` with a model in evaluation mode."""
    # The kernels change scores by less than a thousandth: accurate enough for metrics. The values stored with
    # a detector (map scales, threshold) come from the plain convolutions
    with cpu_kernels(model, enabled=is_on_cpu(model)):
        return score_images(partial(infer, model), images, size, description, tiles)


def summarise(
    scored: Sequence[Scored],
    threshold: float,
    seed: int,
    samples: int = detection.BOOTSTRAP_SAMPLES,
) -> dict[str, Any]:
    """Image and pixel metrics over the test set and per defect type, with bootstrap intervals.

    Intervals resample whole scenes: exposures of one piece of metal are not independent images.
    Defective images with no mask or an empty one count only in the image metrics; in the pixel metrics, their
    defect would count as background. Metrics that the images do not allow are named under `left_out`, with
    the reason.

    Args:
        scored: the test images.
        threshold: scores above it are anomalous.
        seed: of the bootstrap.
        samples: resamples of the bootstrap.
    """
    scores = np.array([item.score for item in scored])
    labels = np.array([item.is_defective for item in scored], bool)
    pixels, without_mask = with_pixels(scored)
    result: dict[str, Any] = {
        "images": {GOOD: int((~labels).sum()), "defective": int(labels.sum())},
        "scenes": {kind: scenes_among(scored, kind == "defective") for kind in (GOOD, "defective")},
        "defective_without_mask": without_mask,
        "left_out": left_out(scored, pixels),
    }
    intervals: dict[str, tuple[float, float]] = {}
    if not labels.all():
        rate = float((scores[~labels] > threshold).mean())
        result["false_alarm_rate"] = rate
        intervals["false_alarm_rate"] = detection.rate_interval(rate, result["scenes"][GOOD])
    if labels.any():
        result["detection_rate"] = float((scores[labels] > threshold).mean())
    if not labels.any() or labels.all():
        return rounded(result | {"interval_95": {name: list(bounds) for name, bounds in intervals.items()}})
    scenes = [item.scene for item in scored]
    for name, statistic in image_statistics(threshold).items():
        result[name] = statistic(scores, labels)
        intervals[name] = detection.bootstrap_interval(statistic, scores, labels, scenes, seed, samples)
    result["per_type"] = per_type(scored, threshold)
    if any(item.mask.any() for item in pixels):
        maps, masks = [item.anomaly_map for item in pixels], [item.mask for item in pixels]
        result |= {
            "pixel_auroc": detection.pixel_auroc(maps, masks),
            "au_pro": detection.au_pro(maps, masks),
        }
        groups = [item.scene for item in pixels]
        intervals |= detection.pixel_intervals(maps, masks, groups, seed=seed, samples=samples)
    result["interval_95"] = {name: list(bounds) for name, bounds in intervals.items()}
    return rounded(result)


def papers_metrics(
    summary: Mapping[str, Any], papers: PapersScore, score: Callable[[], Sequence[Scored]]
) -> dict[str, float]:
    """`PAPERS_METRICS` of the paper's score (plain residual, both maps at half), those that the images allow.

    Args:
        summary: the detector's metrics on the same images, from `summarise`.
        papers: from the detector's calibration.
        score: scores the images with the paper's score; called only where the detector has another one.
    """
    if "image_auroc" not in summary:
        return {}
    if papers.is_the_detectors:
        return {name: summary[name] for name in PAPERS_METRICS if name in summary}
    scored = score()
    scores, labels = [item.score for item in scored], [item.is_defective for item in scored]
    found = {"image_auroc": detection.auroc(scores, labels), "f1_max": detection.f1_max(scores, labels)[0]}
    if (points := pro_points(scored)) is not None:
        found["au_pro"] = points[2]
    return {name: round(found[name], 6) for name in PAPERS_METRICS if name in found}


def image_statistics(threshold: float) -> dict[str, Callable[..., float]]:
    """The metrics of scores and labels, by name; `threshold` as in `summarise`."""
    return {
        "image_auroc": detection.auroc,
        "image_ap": detection.average_precision,
        "f1_max": lambda scores, truth: detection.f1_max(scores, truth)[0],
        "f1_at_threshold": lambda scores, truth: detection.f1_at(scores, truth, threshold),
    }


def left_out(scored: Sequence[Scored], pixels: Sequence[Scored]) -> dict[str, str]:
    """The reason for each group of metrics that a test set does not allow."""
    good, bad = (sum(item.is_defective == kind for item in scored) for kind in (False, True))
    if not good or not bad:
        reason = f"{good} good and {bad} defective test images: both kinds are needed"
        return {"image and pixel metrics": reason}
    if not any(item.mask.any() for item in pixels):
        return {"pixel_auroc, au_pro": f"none of the {bad} defective test images has a mask"}
    return {}


def scenes_among(scored: Sequence[Scored], defective: bool) -> int:
    """Number of scenes among the good or the defective images."""
    return len({item.scene for item in scored if item.is_defective == defective})


def rounded(content: Any) -> Any:
    """Round floats in nested mappings and lists to six decimals: further digits depend on summation order."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return round(content, 6) if isinstance(content, float) else content


def with_pixels(scored: Sequence[Scored]) -> tuple[list[Scored], int]:
    """(images with pixel-level ground truth, number of defective images with an empty mask)."""
    known = [item for item in scored if not item.is_defective or item.mask.any()]
    return known, len(scored) - len(known)


def per_type(scored: Sequence[Scored], threshold: float) -> dict[str, dict[str, Any]]:
    """Metrics of each defect type, against all good images."""
    good = [item for item in scored if not item.is_defective]
    result: dict[str, dict[str, Any]] = {}
    for label in sorted({item.label for item in scored if item.is_defective}):
        found = [item for item in scored if item.label == label]
        group = good + found
        scores, labels = [item.score for item in group], [item.is_defective for item in group]
        numbers: dict[str, Any] = {
            "images": len(found),
            "image_auroc": detection.auroc(scores, labels),
            "detection_rate": float(np.mean([item.score > threshold for item in found])),
        }
        pixels, _ = with_pixels(group)
        if any(item.mask.any() for item in pixels):
            maps, masks = [item.anomaly_map for item in pixels], [item.mask for item in pixels]
            numbers |= {
                "pixel_auroc": detection.pixel_auroc(maps, masks),
                "au_pro": detection.au_pro(maps, masks),
            }
        result[label] = numbers
    return result


def pro_points(scored: Sequence[Scored]) -> tuple[NDArray[np.float64], NDArray[np.float64], float] | None:
    """The PRO curve up to AU-PRO's limit: false-positive rates `[400]`, overlaps `[400]`, and the AU-PRO.

    None if no image has a mask.
    """
    pixels, _ = with_pixels(scored)
    if not any(item.mask.any() for item in pixels):
        return None
    fpr, pro = detection.pro_curve([item.anomaly_map for item in pixels], [item.mask for item in pixels])
    grid = np.linspace(0, detection.FPR_LIMIT, CURVE_POINTS)
    area = detection.area_to_limit(fpr, pro, detection.FPR_LIMIT)
    return grid, np.interp(grid, fpr, pro), area


def score_table(groups: Mapping[str, Sequence[Scored]]) -> pd.DataFrame:
    """One row per scored image: `set`, `name`, `label`, `score`."""
    rows = [
        (name, item.name, item.label, round(item.score, 6))
        for name, scored in groups.items()
        for item in scored
    ]
    return pd.DataFrame(rows, columns=["set", "name", "label", "score"])


def pro_table(groups: Mapping[str, Sequence[Scored]]) -> pd.DataFrame:
    """Points of each set's PRO curve: `set`, `false_positive_rate`, `overlap`; no rows without masks."""
    parts = []
    for name, scored in groups.items():
        if (points := pro_points(scored)) is not None:
            grid, overlap, _ = points
            part = pd.DataFrame({"false_positive_rate": grid, "overlap": overlap}).round(6)
            parts.append(part.assign(set=name))
    empty = pd.DataFrame(columns=["set", "false_positive_rate", "overlap"])
    return pd.concat(parts)[list(empty)] if parts else empty
