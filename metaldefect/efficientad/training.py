"""Train a detector's networks on normal images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.lightning_model import RECORD_STEPS, EfficientADModule
from metaldefect.efficientad.torch_model import EfficientAD, PatchDescriptionNetwork, check_image_size
from metaldefect.efficientad.training_data import TeacherFeatures, TrainingBatches, TrainingImages
from metaldefect.hardware import device, keep_freed_memory
from metaldefect.kernels.switch import cpu_kernels
from metaldefect.training.callbacks import ComputingTime
from metaldefect.training.trainer import fit

# Takes the model, in evaluation mode, and the number of training steps so far; returns whether to stop.
AfterEpoch = Callable[[EfficientAD, int], bool]


@dataclass
class Trained:
    """Trained networks in evaluation mode, not yet calibrated, and the loss curve."""

    model: EfficientAD
    history: list[dict[str, float]]


def train(
    teacher: PatchDescriptionNetwork,
    images: TrainingImages,
    config: TrainingConfig,
    work: Path,
    after_epoch: AfterEpoch | None = None,
    clock: ComputingTime | None = None,
) -> Trained:
    """Train student and autoencoder; `calibration.calibrate` turns them into a detector.

    Args:
        teacher: frozen; sets the detector's size and padding.
        images: what to train on.
        config: how to train.
        work: folder of the resume state and the feature cache; training resumes from a state found there.
        after_epoch: called every `checkpoint_steps` steps; again for the same step if a training is killed
            before it wrote that step's state.
        clock: limits the training by computing time; `config.steps` then does not.

    Raises:
        UserError: the images are too small.
    """
    keep_freed_memory()
    check_image_size(*images.normal.shape[1:3])
    torch.manual_seed(config.seed)
    model = EfficientAD(teacher.size, teacher.padding, teacher.count_include_pad)
    model.teacher.load_state_dict(teacher.state_dict())
    model = model.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    with cpu_kernels(model, enabled=device().type == "cpu"):
        features = TeacherFeatures(model.teacher, images.normal, work / "teacher_features.npy")
        module = EfficientADModule(model, features, config, clock)
        history = fit(
            module,
            TrainingBatches(images, features, config.batch_size, config.seed),
            steps=config.steps if clock is None else None,
            epoch_steps=config.checkpoint_steps,
            seed=config.seed,
            checkpoint_directory=work,
            record_steps=RECORD_STEPS,
            watchers=[_AfterEpoch(after_epoch)] if after_epoch else [],
            clock=clock,
        )
    return Trained(module.model.to(device()).eval(), history)


class _AfterEpoch(Callback):
    def __init__(self, call: AfterEpoch) -> None:
        self.call = call

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, EfficientADModule)
        module.model.eval()
        if self.call(module.model, module.step):
            trainer.should_stop = True
        module.model.train()
