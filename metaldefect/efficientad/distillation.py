"""Distil an ImageNet backbone into a patch description network, the teacher of EfficientAD.

The PDN sees a crop at 128 px and the backbone the same crop at 256 px, so that each position of the PDN's map
and of the backbone's stride-8 map shows the same patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metaldefect.efficientad.distillation_config import DistillationConfig
from metaldefect.efficientad.distillation_data import CropBatches, DistillationImages, resized
from metaldefect.efficientad.teacher_targets import PatchFeatures, channel_statistics
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork, map_size
from metaldefect.hardware import autocast, device
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD, to_unit_range
from metaldefect.training.callbacks import ComputingTime
from metaldefect.training.module import Trainee
from metaldefect.training.trainer import fit

STATISTICS_BATCHES = 64
STATISTICS_STEP = 2**31  # the statistics use crops of steps that training never reaches
RECORD_STEPS = 10  # steps per row of the loss curve
# Fields that may change between runs: a longer training continues a shorter one
LENGTH = {"steps", "seconds"}

Base = tuple[PatchDescriptionNetwork, tuple[Tensor, Tensor]]


def imagenet_scaled(images: Tensor) -> Tensor:
    """Normalise `float [N, 3, H, W]` in [0, 1] with ImageNet's mean and standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


@dataclass
class Distilled:
    """A distilled teacher and the record of its training; `legs` are its runs, see `ComputingTime`."""

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
    """A PDN that takes the backbone's images, `float [B, 3, 2 S, 2 S]` in [0, 1], and halves their size."""

    network: PatchDescriptionNetwork

    def __call__(self, large: Tensor) -> Tensor:
        """Features `float32 [B, C, H, W]`."""
        small = imagenet_scaled(resized(large, large.shape[-1] // 2))
        with autocast(large.device):
            return self.network(small.contiguous(memory_format=torch.channels_last)).float()


class DistillationModule(Trainee):
    """Trains a PDN to predict normalised backbone features.

    Args:
        teacher: the network, with its start weights.
        features: the targets.
        config: how to train.
        clock: its computing time drives the learning rate if the time is limited.
        batches: training batches.
        statistics: mean and deviation of the targets, `[1, C, 1, 1]`; None measures them on batches that
            training never reaches.
    """

    model: PatchDescriptionNetwork
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        teacher: PatchDescriptionNetwork,
        features: PatchFeatures,
        config: DistillationConfig,
        clock: ComputingTime,
        batches: CropBatches,
        statistics: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.clock = teacher, config, clock
        self.predict = PdnPredictor(teacher)
        # Outside the module tree: frozen weights do not belong in checkpoints
        self._features, self._batches = [features], batches
        self.needs_statistics = statistics is None
        shape = (1, teacher.out_channels, 1, 1)
        mean, std = statistics or (torch.zeros(shape), torch.ones(shape))
        self.register_buffer("target_mean", mean.clone())
        self.register_buffer("target_std", std.clone())

    def content(self) -> dict[str, Any]:
        """The settings except the length, and the backbone."""
        settings = self.config.model_dump(exclude=LENGTH)
        backbone = {"weights": self._features[0], "taps": self._features[0].backbone.taps}
        return {"settings": settings, "backbone": backbone}

    def on_fit_start(self) -> None:
        self._features[0].to(self.device).to(memory_format=torch.channels_last)
        if self.needs_statistics and self.step == 0:
            mean, std = channel_statistics(self.statistics_batches())
            self.target_mean.copy_(mean)
            self.target_std.copy_(std)

    def statistics_batches(self) -> Iterator[Tensor]:
        """Features of crops that training never sees; on the CPU, since some devices lack float64 sums."""
        size = map_size(self.config.image_size, self.config.image_size, padding=True)
        for index in tqdm(range(STATISTICS_BATCHES), desc="target statistics", unit="batch", leave=False):
            crops = self._batches.batch(STATISTICS_STEP - index)
            yield self._features[0](crops.to(self.device), size).cpu()

    def targets(self, large: Tensor) -> Tensor:
        """Normalised features for a batch `float [B, 3, 2 S, 2 S]` in [0, 1]."""
        size = map_size(large.shape[-2] // 2, large.shape[-1] // 2, padding=True)
        return (self._features[0](large, size) - self.target_mean) / self.target_std

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def on_train_batch_start(self, batch: Tensor, index: int) -> None:
        # torch's schedules count steps; if the time is limited, the cosine must follow the time
        by_steps = self.step / self.config.steps if self.config.steps else 0.0
        progress = min(1.0, max(by_steps, self.clock.share))
        warmup = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * progress))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        """Mean squared error of the normalised features."""
        # Autocast off: the targets' pooling needs float32, and both networks choose their own precision
        with torch.autocast(batch.device.type, enabled=False):
            loss = (self.predict(batch) - self.targets(batch)).square().mean()
        self.log("loss", loss.detach())
        return loss


def distil(
    images: DistillationImages,
    features: PatchFeatures,
    config: DistillationConfig,
    checkpoint_directory: Path | None,
    base: Base | None = None,
) -> Distilled:
    """Distil a teacher.

    Args:
        images: the training images.
        features: the targets.
        config: how to train.
        checkpoint_directory: a killed training resumes from here; None keeps no checkpoints.
        base: a teacher of the same size to start from instead of new weights, with the mean and deviation
            `[1, C, 1, 1]` that normalised its targets; they normalise the new targets too.
    """
    teacher = new_teacher(config) if base is None else base[0]
    batches = CropBatches(
        images, config.image_size, config.batch_size, config.metal_share, config.grey_share, config.seed
    )
    clock = ComputingTime(config.seconds)
    teacher = teacher.requires_grad_(True).train()
    module = DistillationModule(
        teacher.to(memory_format=torch.channels_last),
        features,
        config,
        clock,
        batches,
        base[1] if base is not None else None,
    )
    history = fit(
        module,
        batches,
        steps=config.steps,
        epoch_steps=config.checkpoint_steps,
        seed=config.seed,
        checkpoint_directory=checkpoint_directory,
        record_steps=RECORD_STEPS,
        clock=clock,
    )
    return Distilled(
        teacher.eval(),
        module.target_mean,
        module.target_std,
        module.step,
        module.step * config.batch_size,
        clock.seconds,
        history,
        clock.legs,
    )


def new_teacher(config: DistillationConfig) -> PatchDescriptionNetwork:
    """A PDN whose start weights suit a short training."""
    torch.manual_seed(config.seed)
    teacher = PatchDescriptionNetwork(config.size, padding=True)
    for convolution in teacher.convolutions.children():
        assert isinstance(convolution, torch.nn.Conv2d)
        assert convolution.bias is not None
        # torch's default shrinks the signal layer by layer, which costs a short training its first steps.
        torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        torch.nn.init.zeros_(convolution.bias)
    last = teacher.convolutions[-1]
    assert isinstance(last, torch.nn.Conv2d)
    last.weight.data.mul_(0.1)  # start at the mean of the targets
    return teacher


@torch.inference_mode()
def evaluate(
    network: PatchDescriptionNetwork,
    images: DistillationImages,
    features: PatchFeatures,
    statistics: tuple[Tensor, Tensor],
    image_size: int,
) -> dict[str, float]:
    """How well a network predicts the features of whole images that no training used.

    Args:
        network: in evaluation mode.
        images: unseen images.
        features: the targets.
        statistics: the targets' mean and deviation per channel, `[1, C, 1, 1]`.
        image_size: side of the images that the network sees.

    Returns:
        `loss` (mean squared error of normalised targets), `explained_variance` (1 - residual variance /
        variance, averaged over channels), and the loss on `natural` and on `metal` images. Empty without
        images; a kind without images has no loss.
    """
    on = device()
    predict, features = PdnPredictor(network.to(on)), features.to(on)
    mean, std = (value.to(on) for value in statistics)
    size = map_size(image_size, image_size, padding=True)
    sums = VarianceSums()
    result: dict[str, float] = {}
    for name, group in (("natural", images.natural), ("metal", images.metal)):
        errors = []
        for number in range(len(group)):
            large = resized(to_unit_range(group[number][None]), 2 * image_size).to(on)
            target = ((features(large, size) - mean) / std).cpu()
            residual = target - predict(large).cpu()
            errors.append(float(residual.square().mean()))
            sums.add(target, residual)
        if errors:
            result[f"loss_{name}"] = float(np.mean(errors))
    network.cpu()
    return result | sums.figures()


class VarianceSums:
    """Running sums behind the loss and the explained variance; float64, per channel."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, target: Tensor, residual: Tensor) -> None:
        """Add maps `float [B, C, H, W]`."""
        self.count += target.shape[0] * target.shape[2] * target.shape[3]
        for name, values in (("target", target.double()), ("residual", residual.double())):
            for power, found in (("1", values), ("2", values.square())):
                key = name + power
                self.sums[key] = self.sums.get(key, torch.zeros(())) + found.sum(dim=(0, 2, 3))

    def figures(self) -> dict[str, float]:
        """`loss` and `explained_variance`; empty if nothing was added."""
        if not self.count:
            return {}
        variance = {
            name: (self.sums[f"{name}2"] - self.sums[f"{name}1"].square() / self.count).clamp_min(1e-12)
            for name in ("target", "residual")
        }
        return {
            "loss": float(self.sums["residual2"].mean() / self.count),
            "explained_variance": float((1 - variance["residual"] / variance["target"]).mean()),
        }
