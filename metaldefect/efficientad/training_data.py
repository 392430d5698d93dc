"""Data of a training step: normal images, their cached teacher features, augmentations, penalty images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from metaldefect.artifacts import atomic_file, read_json, write_json
from metaldefect.efficientad.teacher_targets import channel_statistics
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork, map_size
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD, to_imagenet_range, to_unit_range
from metaldefect.training.data import Images
from metaldefect.training.resume import resume_key

PENALTY_GREY_SHARE = 0.3
MAX_CACHE_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class TrainingImages:
    """Images to train on.

    Attributes:
        normal: grey `uint8 [N, H, W]` or colour `[N, H, W, 3]`.
        penalty: natural, in colour, `uint8 [M, H, W, 3]`; None to train without the penalty.
        penalty_source: description of the penalty images, for the record.
    """

    normal: Images
    penalty: Images | None
    penalty_source: str

    def __post_init__(self) -> None:
        if not len(self.normal):
            raise ValueError("no normal images to train on")


class TeacherFeatures:
    """The teacher's normalised features of the un-augmented training images, computed once.

    They never change during training. A file holds them in half precision and is read one image at a time (a
    memory map would count as this process's memory); a JSON file next to it holds the channel statistics.
    Features of images beyond the size limit are computed on access. Files of the same teacher and images are
    reused.

    Args:
        teacher: the frozen network.
        images: grey `uint8 [N, H, W]` or colour `[N, H, W, 3]`.
        path: the file.
        max_bytes: maximum size of the file.
    """

    def __init__(
        self,
        teacher: PatchDescriptionNetwork,
        images: Images,
        path: Path,
        max_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        self.teacher, self.images, self.path = teacher, images, path
        # Channels last, the layout in which the networks compute.
        height, width = images.shape[1:3]
        self.shape = (*map_size(height, width, teacher.padding), teacher.out_channels)
        self.numbers = int(np.prod(self.shape))
        self.cached = min(len(images), max_bytes // (2 * self.numbers))
        record = path.with_suffix(".json")
        key = resume_key({"teacher": teacher_content(teacher), "cached": self.cached, "images": images})
        known = read_json(record) if record.is_file() else {}
        if known.get("key") == key and (path.is_file() or not self.cached):
            self.mean, self.std = (torch.tensor(known[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
            return
        record.unlink(missing_ok=True)  # the file that it describes is about to change
        self.mean, self.std = self._compute_all()
        statistics = {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}
        write_json(record, {"key": key, **statistics})

    def _compute_all(self) -> tuple[Tensor, Tensor]:
        """Write the file and return the channels' mean and deviation."""
        with atomic_file(self.path) as temporary, temporary.open("wb") as stream:

            def features() -> Iterator[Tensor]:
                for index in tqdm(
                    range(len(self.images)), desc="teacher features", unit="image", leave=False
                ):
                    found = self._compute(index)
                    if index < self.cached:
                        stream.write(found[0].permute(1, 2, 0).half().contiguous().numpy().tobytes())
                    yield found

            return channel_statistics(features())

    @torch.inference_mode()
    def _compute(self, index: int) -> Tensor:
        device = next(self.teacher.parameters()).device
        return self.teacher(to_imagenet_range(self.images[index][None]).to(device)).float().cpu()

    def _read(self, index: int) -> Tensor:
        kept = np.fromfile(self.path, np.float16, self.numbers, offset=2 * self.numbers * index)
        return torch.from_numpy(kept.reshape(self.shape).astype(np.float32)).permute(2, 0, 1)[None]

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        """Normalised features `float32 [B, C, H', W']` of the images at `indices`, channels last."""
        maps = [self._read(index) if index < self.cached else self._compute(index) for index in indices]
        return (torch.cat(maps) - self.mean) / self.std


def teacher_content(teacher: PatchDescriptionNetwork) -> dict[str, Any]:
    """Everything about a teacher that determines its features, see `resume_key`."""
    kind = {"size": teacher.size, "padding": teacher.padding, "pooling": teacher.count_include_pad}
    return {"weights": teacher, "kind": kind}


@dataclass
class Batch:
    """One step's tensors, `float32`: images `[B, 3, H, W]` ImageNet-normalised, features `[B, C, H', W']`."""

    images: Tensor
    augmented: Tensor
    penalty: Tensor | None
    features: Tensor


class TrainingBatches:
    """The batch of each step; a pure function of (seed, step).

    Args:
        images: what to draw from.
        features: the teacher's features of `images.normal`.
        batch_size: images per step.
        seed: of the order, the augmentations and the penalty images.
    """

    def __init__(self, images: TrainingImages, features: TeacherFeatures, batch_size: int, seed: int) -> None:
        self.images, self.features = images, features
        self.batch_size, self.seed = batch_size, seed

    def content(self) -> dict[str, Any]:
        """The images and their sampling."""
        return {
            "images": self.images.normal,
            "natural_images": self.images.penalty,
            "sampling": {"batch_size": self.batch_size, "seed": self.seed},
        }

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng((self.seed, step))
        chosen = sample_order(len(self.images.normal), self.seed, step * self.batch_size, self.batch_size)
        normal = np.stack([self.images.normal[index] for index in chosen])
        unit = to_unit_range(normal)
        augmented = torch.cat([augment(image[None], rng) for image in unit])
        penalty = None
        if self.images.penalty is not None:
            drawn = rng.integers(len(self.images.penalty), size=self.batch_size)
            photographs = np.stack([self.images.penalty[int(index)] for index in drawn])
            penalty = torch.cat([maybe_grey(image[None], rng) for image in to_unit_range(photographs)])
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
    """Scale brightness, contrast or saturation by a factor U(0.8, 1.2); `float [N, 3, H, W]` in [0, 1].

    Saturation leaves grey images bit-identical.
    """
    factor = float(rng.uniform(0.8, 1.2))
    kind = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation)
    adjust = kind[int(rng.integers(3))]
    if adjust is transforms.adjust_saturation and torch.equal(images, images[:, :1].expand_as(images)):
        return images
    return adjust(images, factor)


def maybe_grey(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn grey with probability 0.3; `float [N, 3, H, W]` in [0, 1]."""
    if rng.random() < PENALTY_GREY_SHARE:
        return transforms.rgb_to_grayscale(images, num_output_channels=3)
    return images


def normalised(images: Tensor) -> Tensor:
    """Normalise `float [N, 3, H, W]` in [0, 1] with ImageNet's mean and deviation; channels-last memory."""
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
