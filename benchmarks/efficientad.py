"""`python -m benchmarks.efficientad`: compare EfficientAD's training step with a plain float32 one.

Both do the same mathematics on the same batches. Also measures inference. Writes
`benchmarks/results/efficientad_speed.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.lightning_model import training_losses
from metaldefect.efficientad.loss import distance_loss, hard_feature_loss, penalty_loss
from metaldefect.efficientad.torch_model import FEATURES, EfficientAD, PatchDescriptionNetwork, infer
from metaldefect.efficientad.training_data import Batch, TeacherFeatures, TrainingBatches, TrainingImages
from metaldefect.hardware import autocast, keep_freed_memory, set_threads
from metaldefect.kernels.switch import cpu_kernels
from metaldefect.training.data import Images


def plain_features(network: PatchDescriptionNetwork, images: Tensor) -> Tensor:
    """A PDN's features, computed by a plain chain of torch's own layers."""
    x = images
    for layer, module in zip(network.layers, network.convolutions, strict=True):
        x = module(x)
        if layer.relu:
            x = functional.relu(x)
        if layer.pool:
            x = network.pool(x)
    return x


def plain_losses(model: EfficientAD, batch: Batch, quantile: float) -> Tensor:
    """The losses as in the paper: float32, three student passes, the teacher on both images."""
    assert batch.penalty is not None
    with torch.no_grad():
        target, augmented_target = (
            (plain_features(model.teacher, images) - model.teacher_mean) / model.teacher_std
            for images in (batch.images, batch.augmented)
        )
    reconstruction = model.autoencoder(batch.augmented)
    return (
        hard_feature_loss(target, plain_features(model.student, batch.images)[:, :FEATURES], quantile)
        + penalty_loss(plain_features(model.student, batch.penalty)[:, :FEATURES])
        + distance_loss(augmented_target, reconstruction)
        + distance_loss(reconstruction, plain_features(model.student, batch.augmented)[:, FEATURES:])
    )


def fast_losses(model: EfficientAD, batch: Batch, quantile: float) -> Tensor:
    """The losses as this project's training computes them."""
    with autocast():
        return training_losses(model, batch, quantile)[0]


def timed_steps(
    model: EfficientAD,
    batches: list[Batch],
    losses: Callable[[EfficientAD, Batch, float], Tensor],
    optimizer: torch.optim.Optimizer,
    quantile: float,
) -> tuple[list[float], list[float]]:
    """(seconds, losses) of each step; the seconds leave out the first step, a warm-up."""
    seconds, values = [], []
    for step, batch in enumerate(tqdm(batches, desc=losses.__name__, unit="step")):
        torch.manual_seed(step)
        started = time.perf_counter()
        loss = losses(model, batch, quantile)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        values.append(float(loss.detach()))
    return seconds[1:], values


def fresh_model(features: TeacherFeatures, fast: bool) -> EfficientAD:
    """A model with the same initial weights on every call; the fast one uses channels-last memory."""
    torch.manual_seed(0)
    model = EfficientAD("S")
    model.teacher.load_state_dict(features.teacher.state_dict())
    model.teacher_mean.copy_(features.mean)
    model.teacher_std.copy_(features.std)
    return model.to(memory_format=torch.channels_last) if fast else model


def adam(model: EfficientAD, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of this project's training, or torch's default Adam."""
    parameters = [*model.student.parameters(), *model.autoencoder.parameters()]
    return torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5, fused=fused)


def contiguous(batch: Batch) -> Batch:
    """The batch in torch's default memory order."""
    assert batch.penalty is not None
    return Batch(
        batch.images.contiguous(), batch.augmented.contiguous(), batch.penalty.contiguous(), batch.features
    )


def training_batches(size: int, steps: int, folder: Path) -> tuple[TeacherFeatures, list[Batch]]:
    """Batches of grey noise as normal and coloured noise as natural images: the content costs no time."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, size, size), dtype=np.uint8)
    images = TrainingImages(noise, rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8), "noise")
    torch.manual_seed(1)
    features = TeacherFeatures(EfficientAD("S").teacher.eval(), noise, folder / "features.npy")
    batches = TrainingBatches(images, features, 1, 0)
    return features, [batches.batch(step) for step in range(steps)]


def inference_pace(model: EfficientAD, images: Images, count: int) -> float:
    """Images per second in float32, one at a time, after a warm-up."""
    infer(model, images[0])
    started = time.perf_counter()
    for index in range(count):
        infer(model, images[index % len(images)])
    return count / (time.perf_counter() - started)


def scoring_pace(model: EfficientAD, images: Images, count: int) -> float:
    """`inference_pace` with the convolutions that score a test set."""
    with cpu_kernels(model, enabled=True):
        return inference_pace(model, images, count)


def main() -> None:
    """Time both formulations on the same batches and publish the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.efficientad", description=__doc__)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each formulation")
    parser.add_argument(
        "--hard-quantile",
        type=float,
        default=TrainingConfig.model_fields["hard_quantile"].default,
        help="of the hard feature loss",
    )
    add_results_argument(parser, "efficientad_speed")
    arguments = parser.parse_args()
    quantile = arguments.hard_quantile
    set_threads()
    with tempfile.TemporaryDirectory() as folder:
        features, batches = training_batches(arguments.image_size, arguments.steps + 1, Path(folder))
    plain_model, model = fresh_model(features, False), fresh_model(features, True)
    plain_batches = [contiguous(batch) for batch in batches]
    plain_seconds, plain = timed_steps(
        plain_model, plain_batches, plain_losses, adam(plain_model, False), quantile
    )
    del plain_model
    kept = keep_freed_memory()  # not before the plain step: it is part of our speed-up
    with cpu_kernels(model, enabled=True):
        fast_seconds, fast = timed_steps(model, batches, fast_losses, adam(model, True), quantile)
    figures = {
        # Means, because the augmentation decides a step's cost and a median would hide the expensive steps.
        "train_step_speedup": float(np.mean(plain_seconds) / np.mean(fast_seconds)),
        "loss_difference": float(np.max(np.abs(np.array(fast) / np.array(plain) - 1))),
        "inference_images_per_s": inference_pace(model.eval(), features.images, arguments.steps),
        "scoring_images_per_s": scoring_pace(model, features.images, arguments.steps),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    details = {
        "plain_step_s": plain_seconds,
        "fast_step_s": fast_seconds,
        "plain_loss": plain,
        "fast_loss": fast,
        "unchanged_by_augmentation": sum(torch.equal(b.images, b.augmented) for b in batches[1:]),
        "keeps_freed_memory": kept,
        "image_size": arguments.image_size,
        "hard_quantile": quantile,
        "threads": torch.get_num_threads(),
    }
    publish(arguments.results, "efficientad", figures, details)


if __name__ == "__main__":
    main()
