"""Chooses how large a detector sees its images, by defects painted onto good ones.

Each position of a teacher's map describes 33 pixels. On a smaller image these show more of the part: slow
changes of shade become visible and grain disappears, but so do the finest defects. Which of the two counts
depends on the part. Good images and painted defects tell before any training: a memory bank of the teacher's
own features separates them at each size, in about a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metaldefect.efficientad.calibration import FEWEST_IMAGES
from metaldefect.efficientad.config import SMALLEST_SIDE
from metaldefect.efficientad.memory_bank import Features, MemoryBank, fill_bank, teacher_features
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.efficientad.training_sets import resized_images
from metaldefect.hardware import autocast, device
from metaldefect.images import U8, ImageSize, height_and_width, resize
from metaldefect.ingest.natural import evenly_spaced
from metaldefect.inspection.look import multiple_of
from metaldefect.inspection.painted import paint_defects
from metaldefect.inspection.provider import DatasetProvider, InspectionImage
from metaldefect.kernels.switch import cpu_kernels, is_on_cpu
from metaldefect.metrics import detection

SHARES = (1.0, 0.75, 0.5)  # of the sides of the largest size
NORMALS, DEFECTS = 96, 104
BANK_IMAGES, BANK_PATCHES = 64, 8_000
TIE = 0.01  # image AUROC
NEARLY_ALL = 0.97


class SizeChoice(NamedTuple):
    """What was chosen.

    Attributes:
        size: of the images.
        aurocs: size, in words -> image AUROC of painted defects; empty if nothing could be compared.
        why: a sentence.
    """

    size: ImageSize
    aurocs: dict[str, float]
    why: str


def choose_size(
    provider: DatasetProvider, largest: ImageSize, teacher: PatchDescriptionNetwork, seed: int
) -> SizeChoice:
    """Choose among the shares of the largest size, see `pick`.

    Measures on validation normals, and on inserted defects if the provider has some, else on defects painted
    onto canvases at the largest size. No test image is looked at.

    Args:
        provider: the images.
        largest: a size that suits the images' shape.
        teacher: whose features are compared.
        seed: of the painted defects and the bank.
    """
    sizes = candidates(largest)
    if len(sizes) == 1:
        return SizeChoice(largest, {}, "")
    normals = some(provider.validation(), NORMALS)
    if len(normals) < FEWEST_IMAGES:
        return too_few(largest, f"{len(normals)} good images are held out")
    defects = some(provider.defects(), DEFECTS) or paint_defects(
        list(provider.canvases()), largest, DEFECTS, seed
    )
    if len(defects) < FEWEST_IMAGES:
        return too_few(largest, f"{len(defects)} defects are inserted")
    teacher = teacher.to(device()).eval()
    aurocs = [auroc_at(provider, size, teacher, normals, defects, seed) for size in sizes]
    size = pick(dict(zip(sizes, aurocs, strict=True)))
    found = {in_words(one): round(value, 3) for one, value in zip(sizes, aurocs, strict=True)}
    compared = ", ".join(f"{value:.3f} at {name}" for name, value in found.items())
    why = f"image size: {in_words(size)}; before any training, painted defects stand out by {compared}"
    return SizeChoice(size, found, f"{why} px (image AUROC); --image-size decides otherwise")


def too_few(largest: ImageSize, found: str) -> SizeChoice:
    """The largest size, because too few images were found to compare others."""
    why = f"image size: {in_words(largest)}; {found}, and smaller sizes are tried from {FEWEST_IMAGES} on"
    return SizeChoice(largest, {}, why)


def candidates(largest: ImageSize) -> list[ImageSize]:
    """The sizes to compare, from the largest on; none has a side that is too short.

    Example:
        >>> candidates(256), candidates((400, 160))
        ([256, 192, 128], [(400, 160)])
    """
    found: list[ImageSize] = [largest]
    for share in SHARES[1:]:
        height, width = (multiple_of(share * side) for side in height_and_width(largest))
        if min(height, width) >= SMALLEST_SIDE:
            found.append(height if height == width else (height, width))
    return found


def pick(aurocs: Mapping[ImageSize, float]) -> ImageSize:
    """The smallest size that is about as good as the best; sizes are in descending order.

    It is the fastest, and learns most in the same time. Where the largest size finds nearly all painted
    defects, they cannot tell whether finer real ones would stay visible: then the largest.
    """
    sizes = list(aurocs)
    if aurocs[sizes[0]] >= NEARLY_ALL:
        return sizes[0]
    best = max(aurocs.values())
    return next(size for size in reversed(sizes) if aurocs[size] >= best - TIE)


def some(images: Sequence[InspectionImage], count: int) -> list[InspectionImage]:
    """At most `count` images, evenly spaced."""
    return [images[index] for index in evenly_spaced(len(images), count)] if len(images) else []


def auroc_at(
    provider: DatasetProvider,
    size: ImageSize,
    teacher: PatchDescriptionNetwork,
    normals: Sequence[InspectionImage],
    defects: Sequence[InspectionImage],
    seed: int,
) -> float:
    """Image AUROC of defects against normals at a size, by a memory bank of the teacher's features."""
    of_teacher = teacher_features(teacher)

    def describe(images: U8) -> Tensor:
        with autocast(device()):  # not around the distances, which need float32
            return of_teacher.describe(images)

    with cpu_kernels(teacher, enabled=is_on_cpu(teacher)):
        bank = fill_bank(
            resized_images(provider.train(), size, provider.channels),
            Features(of_teacher.name, describe),
            seed,
            BANK_PATCHES,
            BANK_IMAGES,
        )
        scores = np.array([bank_score(bank, item, size) for item in [*normals, *defects]])
    return detection.auroc(scores, np.repeat([False, True], [len(normals), len(defects)]))


@torch.inference_mode()
def bank_score(bank: MemoryBank, item: InspectionImage, size: ImageSize) -> float:
    """Score of one image at a size."""
    return bank.detect(resize(item.image, size))[0]


def in_words(size: ImageSize) -> str:
    """`256`, or height x width."""
    height, width = height_and_width(size)
    return str(height) if height == width else f"{height}x{width}"
