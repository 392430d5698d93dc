"""`python -m benchmarks.efficientad`: the training step against the plain float32 one, and inference.

Both do the same mathematics on the same batches. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaldefect.efficientad.evaluation import infer
from metaldefect.efficientad.lightning_model import training_losses
from metaldefect.efficientad.loss import distance_loss, hard_feature_loss, penalty_loss
from metaldefect.efficientad.torch_model import FEATURES, EfficientAD
from metaldefect.efficientad.training_data import Batch, StepDataset, TeacherFeatures, TrainingImages
from metaldefect.hardware import autocast, cpu_name, set_threads


def plain_losses(model: EfficientAD, batch: Batch) -> Tensor:
    """The losses as the paper writes them: float32, three student passes, the teacher on both images."""
    assert batch.penalty is not None
    with torch.no_grad():
        target = model.normalised_teacher(batch.images)
        augmented_target = model.normalised_teacher(batch.augmented)
    reconstruction = model.autoencoder(batch.augmented)
    return (
        hard_feature_loss(target, model.student(batch.images)[:, :FEATURES])
        + penalty_loss(model.student(batch.penalty)[:, :FEATURES])
        + distance_loss(augmented_target, reconstruction)
        + distance_loss(reconstruction, model.student(batch.augmented)[:, FEATURES:])
    )


def fast_losses(model: EfficientAD, batch: Batch) -> Tensor:
    """The losses as training computes them."""
    with autocast():
        return training_losses(model, batch)[0]


def timed_steps(
    model: EfficientAD, batches: list[Batch], losses: Callable[[EfficientAD, Batch], Tensor]
) -> tuple[list[float], list[float]]:
    """(seconds, losses) of each step; the first is a warm-up and is left out of the seconds."""
    parameters = [*model.student.parameters(), *model.autoencoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5)
    seconds, values = [], []
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        started = time.perf_counter()
        loss = losses(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        values.append(float(loss.detach()))
    return seconds[1:], values


def fresh_model(features: TeacherFeatures, fast: bool) -> EfficientAD:
    """The same weights each time; the fast one in channels-last memory."""
    torch.manual_seed(0)
    model = EfficientAD("S")
    model.teacher.load_state_dict(features.teacher.state_dict())
    model.teacher_mean.copy_(features.mean)
    model.teacher_std.copy_(features.std)
    return model.to(memory_format=torch.channels_last) if fast else model


def main() -> None:
    """Time both formulations in turns and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.efficientad", description=__doc__)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6, help="steps of each formulation")
    arguments = parser.parse_args()
    set_threads()
    size = arguments.image_size
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, size, size), dtype=np.uint8)
    images = TrainingImages(noise, rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8), "noise")
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        features = TeacherFeatures(EfficientAD("S").teacher.eval(), noise, Path(folder) / "features.npy")
        dataset = StepDataset(images, features, 1, 0, 0, arguments.steps)
        batches = [dataset[step] for step in range(arguments.steps)]
    contiguous = [
        Batch(b.images.contiguous(), b.augmented.contiguous(), b.penalty.contiguous(), b.features)  # type: ignore[union-attr]
        for b in batches
    ]
    plain_seconds, plain = timed_steps(fresh_model(features, False), contiguous, plain_losses)
    fast_seconds, fast = timed_steps(fresh_model(features, True), batches, fast_losses)
    model = fresh_model(features, True).eval()
    started = time.perf_counter()
    for index in range(arguments.steps):
        infer(model, noise[index % len(noise)])
    inference = (time.perf_counter() - started) / arguments.steps
    result = {
        "train_step_speedup": float(np.median(plain_seconds) / np.median(fast_seconds)),
        "loss_difference": float(np.max(np.abs(np.array(fast) / np.array(plain) - 1))),
        "inference_images_per_s": 1 / inference,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "plain_step_s": plain_seconds,
        "fast_step_s": fast_seconds,
        "plain_loss": plain,
        "fast_loss": fast,
        "image_size": size,
        "machine": cpu_name(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
