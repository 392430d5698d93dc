"""What a training step sees: normal images, their cached teacher features, augmentations, penalty images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from metaldefect.artifacts import read_json, write_json
from metaldefect.efficientad.teacher_targets import channel_statistics
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork, map_size, weights_digest
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD, U8, to_imagenet_range

PENALTY_GREY_SHARE = 0.3
MAX_CACHE_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class TrainingImages:
    """Images to train on.

    Attributes:
        normal: grey `uint8 [N, H, W]`.
        penalty: natural colour images `uint8 [M, H, W, 3]`, or None to train without the penalty.
        penalty_source: what they are, for the record.
    """

    normal: U8
    penalty: U8 | None
    penalty_source: str

    def __post_init__(self) -> None:
        if not len(self.normal):
            raise ValueError("no normal images to train on")


def centre_crop(images: U8, height: int, width: int) -> U8:
    """The middle `[N, height, width, ...]` of images at least as large."""
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return np.ascontiguousarray(images[:, top : top + height, left : left + width])


class TeacherFeatures:
    """The teacher's normalised features of the un-augmented training images, computed once.

    They never change during training. Kept in half precision in a memory-mapped file, with the channel
    statistics in a JSON file beside it; images beyond the size limit are computed when asked for. Files
    of the same teacher and images are taken up.

    Args:
        teacher: the frozen network.
        images: grey `uint8 [N, H, W]`.
        path: the file to map.
        max_bytes: largest size of the file.
    """

    def __init__(
        self,
        teacher: PatchDescriptionNetwork,
        images: U8,
        path: Path,
        max_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        self.teacher, self.images = teacher, images
        # Channels last, as the networks compute.
        shape = (*map_size(images.shape[1], images.shape[2], teacher.padding), teacher.out_channels)
        self.cached = min(len(images), max_bytes // (2 * int(np.prod(shape))))
        self.cache: NDArray[np.float16] | None = None
        record, key = path.with_suffix(".json"), content_key(teacher, images, self.cached)
        known = read_json(record) if record.is_file() else {}
        if known.get("key") == key and (path.is_file() or not self.cached):
            self.cache = np.load(path, mmap_mode="r") if self.cached else None
            self.mean, self.std = (torch.tensor(known[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
            return
        record.unlink(missing_ok=True)  # the file that it vouches for is about to change
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.cached:
            self.cache = np.lib.format.open_memmap(
                path, mode="w+", dtype=np.float16, shape=(self.cached, *shape)
            )
        self.mean, self.std = channel_statistics(
            self._compute(index)
            for index in tqdm(range(len(images)), desc="teacher features", unit="image", leave=False)
        )
        statistics = {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}
        write_json(record, {"key": key, **statistics})

    @torch.inference_mode()
    def _compute(self, index: int) -> Tensor:
        device = next(self.teacher.parameters()).device
        features = self.teacher(to_imagenet_range(self.images[index : index + 1]).to(device)).cpu()
        if self.cache is not None and index < self.cached:
            self.cache[index] = features[0].permute(1, 2, 0).half().numpy()
        return features

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        """Normalised features `float32 [B, C, H', W']` of the images at `indices`, channels last."""
        maps = [
            torch.from_numpy(self.cache[index].astype(np.float32)).permute(2, 0, 1)[None]
            if self.cache is not None and index < self.cached
            else self._compute(index)
            for index in indices
        ]
        return (torch.cat(maps) - self.mean) / self.std


def content_key(teacher: PatchDescriptionNetwork, images: U8, cached: int) -> str:
    """SHA-256 of all that the cached features depend on."""
    kind = (
        f"{weights_digest(teacher)} {teacher.size} {teacher.padding} {teacher.count_include_pad}"
        f" {images.shape} {cached}"
    )
    digest = hashlib.sha256(kind.encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    return digest.hexdigest()


@dataclass
class Batch:
    """One step's tensors, `float32`: images `[B, 3, H, W]` ImageNet-normalised, features `[B, C, H', W']`."""

    images: Tensor
    augmented: Tensor
    penalty: Tensor | None
    features: Tensor


class StepDataset(Dataset[Batch]):
    """The batches of an epoch; each is a pure function of (seed, step), whatever came before it.

    Args:
        images: what to draw from.
        features: the teacher's, of `images.normal`.
        batch_size: images a step.
        seed: of order, augmentation and penalty images.
        first_step: the epoch's first step.
        steps: the epoch's number of steps.
    """

    def __init__(
        self,
        images: TrainingImages,
        features: TeacherFeatures,
        batch_size: int,
        seed: int,
        first_step: int,
        steps: int,
    ) -> None:
        self.images, self.features = images, features
        self.batch_size, self.seed = batch_size, seed
        self.first_step, self.steps = first_step, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        step = self.first_step + index
        rng = np.random.default_rng((self.seed, step))
        chosen = sample_order(len(self.images.normal), self.seed, step * self.batch_size, self.batch_size)
        normal = self.images.normal[chosen]
        unit = torch.from_numpy(normal).float().div_(255.0)[:, None].expand(-1, 3, -1, -1)
        augmented = torch.cat([augment(image[None], rng) for image in unit])
        penalty = None
        if self.images.penalty is not None:
            drawn = self.images.penalty[rng.integers(len(self.images.penalty), size=self.batch_size)]
            natural = torch.from_numpy(drawn).float().div_(255.0).permute(0, 3, 1, 2)
            penalty = torch.cat([maybe_grey(image[None], rng) for image in natural])
        return Batch(
            normalised(unit),
            normalised(augmented),
            None if penalty is None else normalised(penalty),
            self.features[chosen],
        )


def sample_order(count: int, seed: int, start: int, length: int) -> list[int]:
    """Entries `start` to `start + length` of an endless sequence of shuffled passes over `count` images."""
    order: list[int] = []
    for position in range(start, start + length):
        epoch, offset = divmod(position, count)
        order.append(int(np.random.default_rng((seed, epoch, count)).permutation(count)[offset]))
    return order


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """One of brightness, contrast and saturation by a factor U(0.8, 1.2); `float [N, 3, H, W]` in [0, 1].

    Grey images have no saturation: they stay as they are, to the bit.
    """
    factor = float(rng.uniform(0.8, 1.2))
    kind = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation)
    adjust = kind[int(rng.integers(3))]
    if adjust is transforms.adjust_saturation and torch.equal(images, images[:, :1].expand_as(images)):
        return images
    return adjust(images, factor)


def maybe_grey(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Grey with chance 0.3; `float [N, 3, H, W]` in [0, 1]."""
    if rng.random() < PENALTY_GREY_SHARE:
        return transforms.rgb_to_grayscale(images, num_output_channels=3)
    return images


def normalised(images: Tensor) -> Tensor:
    """ImageNet's mean and deviation taken out of `float [N, 3, H, W]` in [0, 1], in channels-last memory."""
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
