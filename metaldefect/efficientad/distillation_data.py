"""Data of a distillation: natural and metal images, held out by photograph and scene, and crops of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metaldefect.errors import UserError
from metaldefect.images import U8, to_unit_range
from metaldefect.ingest.fixed_camera import judge_pairs
from metaldefect.ingest.groups import fingerprint, first_of_each, near_duplicate_pairs
from metaldefect.ingest.natural import Natural
from metaldefect.training.data import Images, LazyImages

HELD_OUT_SHARE = 20


@dataclass(frozen=True)
class DistillationImages:
    """Images of side S; either kind may be empty.

    Attributes:
        natural: in colour, `uint8 [N, S, S, 3]`.
        metal: grey, `uint8 [M, S, S]`.
        natural_groups: the photograph that each natural image comes from.
        metal_groups: the scene that each metal image shows, see `scenes`.
    """

    natural: Images
    metal: Images
    natural_groups: Sequence[Hashable]
    metal_groups: Sequence[Hashable]

    def __post_init__(self) -> None:
        for images, groups in ((self.natural, self.natural_groups), (self.metal, self.metal_groups)):
            if len(images) != len(groups):
                raise ValueError(f"{len(images)} images, but {len(groups)} groups")

    def split(self) -> tuple[DistillationImages, DistillationImages]:
        """(training, held out): holds out every 20th photograph and every 20th scene with all their images.

        Of each kind with at least two groups, at least one is held out; a single group is for training.
        """
        natural, metal = held_out(self.natural_groups), held_out(self.metal_groups)
        training = self.take(complement(natural, len(self.natural)), complement(metal, len(self.metal)))
        return training, self.take(natural, metal)

    def take(self, natural: Sequence[int], metal: Sequence[int]) -> DistillationImages:
        """The images with these indices."""
        return DistillationImages(
            chosen(self.natural, natural),
            chosen(self.metal, metal),
            [self.natural_groups[number] for number in natural],
            [self.metal_groups[number] for number in metal],
        )


def distillation_images(natural: Sequence[Natural], metal: Images, side: int) -> DistillationImages:
    """Images of side `side`, grouped by photograph and by scene."""
    return DistillationImages(
        LazyImages([one.read for one in natural], (side, side, 3)),
        metal,
        [one.photograph for one in natural],
        scenes(metal),
    )


def held_out(groups: Sequence[Hashable]) -> list[int]:
    """Indices of the images in every 20th group, counting groups in order of first appearance."""
    order = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if len(order) < 2:
        return []
    every = min(HELD_OUT_SHARE, len(order))
    return [number for number, group in enumerate(groups) if order[group] % every == 0]


def complement(numbers: Sequence[int], count: int) -> list[int]:
    """The numbers below `count` that are not in `numbers`."""
    given = set(numbers)
    return [number for number in range(count) if number not in given]


def chosen(images: Images, numbers: Sequence[int]) -> LazyImages:
    """Some of the images; they stay in memory if `images` keeps them there."""
    readers = [partial(images.__getitem__, number) for number in numbers]
    return LazyImages(readers, tuple(images.shape[1:]), kept_bytes=0)


def scenes(images: Images) -> list[int]:
    """The scene of each grey image, found by near-duplicates: the smallest index of its images."""
    prints = [fingerprint(np.asarray(images[number])) for number in range(len(images))]
    pairs, _ = judge_pairs(prints, [""] * len(prints), near_duplicate_pairs(prints))
    return first_of_each(len(prints), pairs).tolist()


def resized(images: Tensor, side: int) -> Tensor:
    """Antialiased bilinear resize to a square."""
    if images.shape[-2:] == (side, side):
        return images
    return functional.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)


class CropBatches:
    """Crops of each step, `float32 [B, 3, 2 S, 2 S]` in [0, 1]: a pure function of seed and step.

    A crop's side is uniform between half and all of the image; half of the crops are mirrored.

    Args:
        images: natural and metal images.
        image_size: S, the side that the distilled network sees.
        batch_size: crops per step.
        metal_share: probability of a metal image if both kinds are available.
        grey_share: probability that a natural image is turned grey.
        seed: of the crops.

    Raises:
        UserError: there are no images.
    """

    def __init__(
        self,
        images: DistillationImages,
        image_size: int,
        batch_size: int,
        metal_share: float,
        grey_share: float,
        seed: int,
    ) -> None:
        if not len(images.natural) + len(images.metal):
            raise UserError("no image to distil on")
        self.images, self.side = images, 2 * image_size
        self.batch_size, self.grey_share, self.seed = batch_size, grey_share, seed
        both = len(images.natural) and len(images.metal)
        self.metal_share = metal_share if both else float(len(images.metal) > 0)

    def content(self) -> dict[str, Any]:
        """The images; the settings determine how they are cropped."""
        return {"natural_images": self.images.natural, "metal_images": self.images.metal}

    def batch(self, step: int) -> Tensor:
        """The crops of a step."""
        rng = np.random.default_rng((self.seed, step))
        return torch.cat([self.crop(rng) for _ in range(self.batch_size)])

    def crop(self, rng: np.random.Generator) -> Tensor:
        """One crop, `float32 [1, 3, 2 S, 2 S]`."""
        metal = rng.random() < self.metal_share
        source = self.images.metal if metal else self.images.natural
        image: U8 = source[int(rng.integers(len(source)))]
        full = image.shape[0]
        side = int(rng.integers(full // 2, full + 1))
        top, left = (int(value) for value in rng.integers(0, full - side + 1, 2))
        patch = to_unit_range(image[None, top : top + side, left : left + side])
        if rng.random() < 0.5:
            patch = patch.flip(-1)
        if not metal and rng.random() < self.grey_share:
            patch = patch.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        return resized(patch, self.side)
