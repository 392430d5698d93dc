"""Distil an ImageNet backbone into a patch description network, the teacher of EfficientAD.

The PDN sees a crop at 128 px and the backbone the same crop at 256 px, so that a position of the PDN's
map and one of the backbone's stride-8 map are the same patch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from metaldefect.artifacts import atomic_file
from metaldefect.efficientad.teacher_targets import PatchFeatures, channel_statistics
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork, Size, map_size, weights_digest
from metaldefect.errors import UserError
from metaldefect.hardware import autocast, device, device_of, keep_freed_memory
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD, U8
from metaldefect.kernels.switch import cpu_kernels

STATISTICS_BATCHES = 64
HELD_OUT_SHARE = 20


@dataclass(frozen=True)
class DistillationConfig:
    """How a teacher is distilled; saved beside its weights.

    Attributes:
        size: the PDN, `S` or `M`.
        image_size: side of the PDN's crops; the backbone sees twice as much.
        batch_size: images a step.
        learning_rate: Adam's at the start; falls to zero along a cosine.
        weight_decay: Adam's L2.
        steps: training steps, or None to train for `seconds`.
        seconds: limit of computing time, counted over all resumed runs; None for none. Processor time over
            the number of threads: a process that is paused, or shares the machine, is not cut short.
        warmup_steps: steps of linear warm-up.
        metal_share: chance of a metal image in a batch where both kinds are given.
        grey_share: chance that a natural image is turned grey.
        checkpoint_steps: steps between two states on disk.
        seed: of the weights and the crops.
    """

    size: Size = "S"
    image_size: int = 128
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    steps: int | None = None
    seconds: float | None = None
    warmup_steps: int = 50
    metal_share: float = 0.5
    grey_share: float = 0.5
    checkpoint_steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise ValueError("distillation needs a number of steps or a time limit")


@dataclass(frozen=True)
class DistillationImages:
    """Images to distil on, `uint8 [N, S, S, 3]` natural and `uint8 [M, S, S]` metal, S the same."""

    natural: U8
    metal: U8

    def __post_init__(self) -> None:
        if len(self.natural) + len(self.metal) < 2:
            raise UserError("distillation needs at least two images")

    def split(self) -> tuple[DistillationImages, DistillationImages]:
        """(training, held out): every 20th image of each kind is held out, at least one of what there is."""

        def held(images: U8) -> NDArray[np.bool_]:
            return np.arange(len(images)) % min(HELD_OUT_SHARE, max(2, len(images))) == 0

        natural, metal = held(self.natural), held(self.metal)
        return (
            DistillationImages(self.natural[~natural], self.metal[~metal]),
            DistillationImages(self.natural[natural], self.metal[metal]),
        )


def as_colour(images: U8) -> Tensor:
    """Grey `uint8 [N, S, S]` or colour `[N, S, S, 3]` as `float32 [N, 3, S, S]` in [0, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).float().div_(255.0)
    return tensor[:, None].expand(-1, 3, -1, -1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


def imagenet_scaled(images: Tensor) -> Tensor:
    """`float [N, 3, H, W]` in [0, 1] with ImageNet's mean and deviation taken out."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


def resized(images: Tensor, side: int) -> Tensor:
    """Antialiased bilinear resize to a square."""
    if images.shape[-2:] == (side, side):
        return images
    return functional.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)


def crops(images: DistillationImages, config: DistillationConfig, step: int) -> Tensor:
    """The batch of a step, `float32 [B, 3, 2 S, 2 S]` in [0, 1]: a pure function of seed and step.

    A crop's side is uniform between half and all of the image; half of the crops are mirrored.
    """
    rng = np.random.default_rng((config.seed, step))
    share = config.metal_share if len(images.natural) and len(images.metal) else float(len(images.metal) > 0)
    side = 2 * config.image_size
    batch = torch.empty(config.batch_size, 3, side, side)
    for index in range(config.batch_size):
        metal = rng.random() < share
        source = images.metal if metal else images.natural
        image = source[rng.integers(len(source))]
        full = image.shape[0]
        crop = int(rng.integers(full // 2, full + 1))
        top, left = (int(value) for value in rng.integers(0, full - crop + 1, 2))
        patch = as_colour(image[None, top : top + crop, left : left + crop])
        if rng.random() < 0.5:
            patch = patch.flip(-1)
        if not metal and rng.random() < config.grey_share:
            patch = patch.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        batch[index] = resized(patch, side)[0]
    return batch


@dataclass
class Distilled:
    """A distilled teacher and how it came about; `legs` are the runs that it took, see `Distiller.fit`."""

    teacher: PatchDescriptionNetwork
    target_mean: Tensor
    target_std: Tensor
    steps: int
    images_seen: int
    seconds: float
    history: list[dict[str, float]]
    legs: list[dict[str, float | None]]


@dataclass
class PdnPredictor:
    """A PDN that takes the backbone's images: `float [B, 3, 2 S, 2 S]` in [0, 1], halved before it."""

    network: PatchDescriptionNetwork

    def __call__(self, large: Tensor) -> Tensor:
        """Features `float32 [B, C, H, W]`."""
        small = imagenet_scaled(resized(large, large.shape[-1] // 2))
        with autocast(large.device):
            return self.network(small.contiguous(memory_format=torch.channels_last)).float()


def computing_time() -> float:
    """Seconds that this process has computed for: its processor time over its threads."""
    return time.process_time() / torch.get_num_threads()


class Distiller:
    """Trains a PDN to predict normalised backbone features; its state can be saved and taken up again.

    Args:
        images: the training images.
        features: the targets.
        config: how to train.
        base: a teacher of the same size to start from instead of new weights, with the mean and deviation
            `[1, C, 1, 1]` of its targets; targets are normalised as its were.
    """

    def __init__(
        self,
        images: DistillationImages,
        features: PatchFeatures,
        config: DistillationConfig,
        base: tuple[PatchDescriptionNetwork, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.images, self.config = images, config
        self.device = device()
        self.features = features.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.manual_seed(config.seed)
        teacher = PatchDescriptionNetwork(
            config.size, padding=True, count_include_pad=base is None or base[0].count_include_pad
        )
        for convolution in teacher.convolutions.children():
            assert isinstance(convolution, torch.nn.Conv2d)
            assert convolution.bias is not None
            # torch's default shrinks the signal layer by layer and costs a short training its first steps.
            torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            torch.nn.init.zeros_(convolution.bias)
        last = teacher.convolutions[-1]
        assert isinstance(last, torch.nn.Conv2d)
        last.weight.data.mul_(0.1)  # start at the mean of the targets
        self.mean, self.std = torch.zeros(1), torch.ones(1)
        self.base = None
        if base is not None:
            teacher.load_state_dict(base[0].state_dict())
            self.mean, self.std = (value.to(self.device) for value in base[1])
            self.base = weights_digest(teacher)
        self.teacher = teacher.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            self.teacher.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.predict = PdnPredictor(self.teacher)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.legs: list[dict[str, float | None]] = []

    def targets(self, large: Tensor) -> Tensor:
        """Normalised features of a batch `float [B, 3, 2 S, 2 S]` in [0, 1]."""
        size = map_size(large.shape[-2] // 2, large.shape[-1] // 2, padding=True)
        return (self.features(large, size) - self.mean) / self.std

    def fit(self, checkpoint: Path | None = None) -> Distilled:
        """Train to the end, taking up the state in `checkpoint` where there is one.

        Each start is a leg of the training, kept as where it began, under which limit and with how many
        threads: a longer limit flattens the cosine, and a second of two threads is more than one of one.
        """
        keep_freed_memory()
        if checkpoint is not None and checkpoint.is_file():
            self.load(checkpoint)
        elif self.base is None:
            self.mean, self.std = (value.to(self.device) for value in self._statistics())
        self.legs.append(
            {
                "from_step": self.step,
                "from_seconds": self.seconds,
                "seconds": self.config.seconds,
                "threads": torch.get_num_threads(),
            }
        )
        self.teacher.train()
        with cpu_kernels(self.teacher, enabled=self.device.type == "cpu"):
            self._train(checkpoint)
        self.teacher.eval()
        seen = self.step * self.config.batch_size
        return Distilled(
            self.teacher, self.mean, self.std, self.step, seen, self.seconds, self.history, self.legs
        )

    def _train(self, checkpoint: Path | None) -> None:
        """Steps until the configured number or time is reached."""
        total = self.config.steps or 0
        with tqdm(total=total or None, initial=self.step, desc="distil teacher", unit="step") as bar:
            while (progress := self._progress()) < 1:
                started = computing_time()
                loss = self._train_step(progress)
                self.step += 1
                self.seconds += computing_time() - started
                if self.step % 10 == 0 or self.step == total:
                    self.history.append({"step": float(self.step), "loss": float(loss.item())})
                    bar.set_postfix(loss=f"{loss.item():.4f}", progress=f"{progress:.0%}")
                bar.update()
                if checkpoint is not None and self.step % self.config.checkpoint_steps == 0:
                    self.save(checkpoint)

    def _progress(self) -> float:
        by_steps = self.step / self.config.steps if self.config.steps else 0.0
        by_time = self.seconds / self.config.seconds if self.config.seconds else 0.0
        return max(by_steps, by_time)

    def _train_step(self, progress: float) -> Tensor:
        warmup = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * progress))
        large = crops(self.images, self.config, self.step).to(self.device)
        loss = (self.predict(large) - self.targets(large)).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Channel statistics of the targets over the crops of steps that training never reaches."""
        size = map_size(self.config.image_size, self.config.image_size, padding=True)
        last = 2**31

        def batches() -> Iterator[Tensor]:
            for index in tqdm(range(STATISTICS_BATCHES), desc="target statistics", unit="batch", leave=False):
                yield self.features(crops(self.images, self.config, last - index).to(self.device), size)

        return channel_statistics(batches())

    def save(self, path: Path) -> None:
        """Write the training state atomically."""
        state = {
            "config": asdict(self.config),
            "base": self.base,
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean,
            "std": self.std,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "legs": self.legs,
        }
        with atomic_file(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Take up a state that `save` wrote.

        Raises:
            UserError: it was made with another configuration, or from other weights.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        wanted = asdict(self.config)
        differing = {
            key: (state["config"].get(key), value)
            for key, value in wanted.items()
            # More steps or time is a longer training of the same kind.
            if key not in ("steps", "seconds", "checkpoint_steps") and state["config"].get(key) != value
        }
        if state.get("base") != self.base:
            differing["base"] = (state.get("base"), self.base)
        if differing:
            raise UserError(f"{path} was made with other settings {differing}: delete it to start afresh")
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean, self.std = state["mean"].to(self.device), state["std"].to(self.device)
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.legs = state.get("legs", [])  # states of before they were kept have none


@torch.inference_mode()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    images: DistillationImages,
    features: PatchFeatures,
    mean: Tensor,
    std: Tensor,
    image_size: int,
) -> dict[str, float]:
    """Held-out loss and explained variance of features predicted from whole images.

    Args:
        predict: `float [B, 3, 2 S, 2 S]` in [0, 1] to `float [B, C, H, W]`, where the features are computed.
        images: images that training did not see.
        features: the targets.
        mean: the targets' mean per channel, `[1, C, 1, 1]`.
        std: the targets' deviation per channel.
        image_size: S.

    Returns:
        `loss` (mean squared error of normalised targets), `explained_variance` (its mean over the channels:
        1 - residual variance / variance), and the loss on the `natural` and `metal` images alone.
    """
    size, on = map_size(image_size, image_size, padding=True), device_of(features)
    mean, std = mean.to(on), std.to(on)
    predictions, targets = [], []
    result: dict[str, float] = {}
    for name, group in (("natural", images.natural), ("metal", images.metal)):
        errors = []
        for start in range(0, len(group), 16):
            large = resized(as_colour(group[start : start + 16]), 2 * image_size).to(on)
            target = (features(large, size) - mean) / std
            prediction = predict(large)
            errors.append((prediction - target).square().mean(dim=(1, 2, 3)))
            predictions.append(prediction)
            targets.append(target)
        if errors:
            result[f"loss_{name}"] = float(torch.cat(errors).mean())
    prediction, target = torch.cat(predictions), torch.cat(targets)
    residual = (target - prediction).var(dim=(0, 2, 3))
    variance = target.var(dim=(0, 2, 3)).clamp_min(1e-12)
    result["loss"] = float((target - prediction).square().mean())
    result["explained_variance"] = float((1 - residual / variance).mean())
    return result
