"""Scoring a test set with a detector, and what the scores say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm

from metaldefect.efficientad.torch_model import EfficientAD, combine_maps
from metaldefect.hardware import autocast
from metaldefect.images import U8, resize, to_imagenet_range
from metaldefect.kernels.switch import cpu_kernels, is_on_cpu
from metaldefect.metrics import detection

GOOD = "good"
MAP_QUANTILES = (0.9, 0.995)


class InspectionImage(Protocol):
    """An image of an inspection data set: grey `uint8 [H, W]`, its mask, its label and its name."""

    @property
    def image(self) -> U8: ...
    @property
    def mask(self) -> NDArray[np.bool_] | None: ...
    @property
    def label(self) -> str: ...
    @property
    def name(self) -> str: ...


@dataclass
class Scored:
    """A scored test image: the map is at the image's own size."""

    image: U8
    mask: NDArray[np.bool_]
    label: str
    name: str
    score: float
    anomaly_map: NDArray[np.float32]

    @property
    def is_defective(self) -> bool:
        """Whether the image is of any label but `good`."""
        return self.label != GOOD


@torch.inference_mode()
def fit_map_quantiles(model: EfficientAD, images: U8) -> list[float]:
    """Set the model's map normalisation from held-out normal images (paper, section 3.4).

    q_a and q_b are the exact 0.9 and 0.995 quantiles of all pixels of the maps at image size.

    Returns:
        The images' scores under it.

    Args:
        model: trained.
        images: grey `uint8 [N, H, W]`.

    Raises:
        ValueError: there is no image.
    """
    if not len(images):
        raise ValueError("no validation normals: the anomaly map cannot be normalised without them")
    maps = [model.image_maps(to_imagenet_range(images[i : i + 1])) for i in range(len(images))]
    values = (torch.cat(one).numpy().ravel() for one in zip(*maps, strict=True))
    model.quantiles.copy_(torch.tensor(np.stack([np.quantile(v, MAP_QUANTILES) for v in values])))
    return [float(combine_maps(*pair, model.quantiles).max()) for pair in maps]


@torch.inference_mode()
def quick_auroc(model: EfficientAD, validation: U8, test: U8, defective: Sequence[bool]) -> float:
    """Image AUROC in the machine's fastest precision, to follow a training with.

    Sets the model's map normalisation from `validation`.

    Args:
        model: in evaluation mode.
        validation: held-out normal images, grey `uint8 [N, H, W]`.
        test: images of the same size.
        defective: whether each test image is.
    """
    with autocast(), cpu_kernels(model, enabled=is_on_cpu(model)):
        fit_map_quantiles(model, validation)
        scores = [infer(model, image)[0] for image in test]
    return detection.auroc(scores, list(defective))


@torch.inference_mode()
def infer(model: EfficientAD, image: U8) -> tuple[float, NDArray[np.float32]]:
    """Score and map `float32 [H, W]` of one grey image `uint8 [H, W]` at the model's size."""
    anomaly_map, score = model(to_imagenet_range(np.array(image[None])))
    return float(score[0]), anomaly_map[0, 0].numpy()


def map_to_size(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear resize of a map to (height, width)."""
    if anomaly_map.shape == size:
        return anomaly_map
    tensor = torch.from_numpy(anomaly_map)[None, None]
    return functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy()


def score_images(
    detect: Callable[[U8], tuple[float, NDArray[np.float32]]],
    images: Sequence[InspectionImage],
    size: int,
    description: str,
) -> list[Scored]:
    """Score every image with `detect`, which takes `uint8 [size, size]`; maps return at the image's size."""
    scored = []
    for item in tqdm(images, desc=description, unit="image"):
        score, anomaly_map = detect(resize(item.image, size))
        shape = (item.image.shape[0], item.image.shape[1])
        mask = np.zeros(shape, bool) if item.mask is None else item.mask
        scored.append(Scored(item.image, mask, item.label, item.name, score, map_to_size(anomaly_map, shape)))
    return scored


def score_test_images(
    model: EfficientAD, images: Sequence[InspectionImage], size: int, description: str
) -> list[Scored]:
    """`score_images` with the networks themselves, in evaluation mode."""
    # The kernels change scores by less than a thousandth: enough to measure with. What is kept with a
    # detector (map scales, threshold) comes from the plain convolutions
    with cpu_kernels(model, enabled=is_on_cpu(model)):
        return score_images(partial(infer, model), images, size, description)


def summarise(scored: Sequence[Scored], threshold: float, seed: int) -> dict[str, Any]:
    """Image and pixel metrics over the test set and per defect type, with bootstrap intervals.

    Defective images whose mask is empty count as images; they are left out of the pixel metrics, where
    their defect would count as background.

    Args:
        scored: at least one good and one defective image.
        threshold: scores above it are anomalous.
        seed: of the bootstrap.
    """
    scores = np.array([item.score for item in scored])
    labels = np.array([item.is_defective for item in scored])
    best, _ = detection.f1_max(scores, labels)

    def at_threshold(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
        return detection.f1_at(values, truth, threshold)

    def largest_f1(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
        return detection.f1_max(values, truth)[0]

    intervals = {
        "image_auroc": detection.bootstrap_interval(detection.auroc, scores, labels, seed),
        "image_ap": detection.bootstrap_interval(detection.average_precision, scores, labels, seed),
        "f1_max": detection.bootstrap_interval(largest_f1, scores, labels, seed),
        "f1_at_threshold": detection.bootstrap_interval(at_threshold, scores, labels, seed),
    }
    result: dict[str, Any] = {
        "images": {"good": int((~labels).sum()), "defective": int(labels.sum())},
        "image_auroc": detection.auroc(scores, labels),
        "image_ap": detection.average_precision(scores, labels),
        "f1_max": best,
        "f1_at_threshold": at_threshold(scores, labels),
        "false_alarm_rate": float((scores[~labels] > threshold).mean()),
        "detection_rate": float((scores[labels] > threshold).mean()),
        "per_type": per_type(scored, threshold),
    }
    pixels, without_mask = with_pixels(scored)
    result["defective_without_mask"] = without_mask
    if any(item.mask.any() for item in pixels):
        maps, masks = [item.anomaly_map for item in pixels], [item.mask for item in pixels]
        result |= {
            "pixel_auroc": detection.pixel_auroc(maps, masks),
            "au_pro": detection.au_pro(maps, masks),
        }
        intervals |= detection.pixel_intervals(maps, masks, seed=seed)
    result["interval_95"] = {name: list(bounds) for name, bounds in intervals.items()}
    return rounded(result)


def rounded(content: Any) -> Any:
    """Floats in nested mappings and lists rounded to six decimals: more is noise of the summation order."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return round(content, 6) if isinstance(content, float) else content


def with_pixels(scored: Sequence[Scored]) -> tuple[list[Scored], int]:
    """(images whose pixels' truth is known, how many defective ones have an empty mask)."""
    known = [item for item in scored if not item.is_defective or item.mask.any()]
    return known, len(scored) - len(known)


def per_type(scored: Sequence[Scored], threshold: float) -> dict[str, dict[str, Any]]:
    """Metrics of each defect type against all good images."""
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
