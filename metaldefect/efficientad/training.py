"""Training a detector's networks from normal images: teacher constants, Lightning."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from metaldefect.efficientad.lightning_model import EfficientADModule, TrainingConfig
from metaldefect.efficientad.torch_model import EfficientAD, PatchDescriptionNetwork, check_image_size
from metaldefect.efficientad.training_data import TeacherFeatures, TrainingImages
from metaldefect.hardware import device, keep_freed_memory, trainer_arguments
from metaldefect.kernels.switch import cpu_kernels
from metaldefect.training.trainer import progress

STATE = "state.ckpt"
# Takes the model, in evaluation mode, and the number of steps it has been trained for.
AfterEpoch = Callable[[EfficientAD, int], None]


@dataclass
class Trained:
    """Trained networks in evaluation mode, not calibrated yet, and the loss curve."""

    model: EfficientAD
    history: list[dict[str, float]]


def train(
    teacher: PatchDescriptionNetwork,
    images: TrainingImages,
    config: TrainingConfig,
    work: Path,
    after_epoch: AfterEpoch | None = None,
) -> Trained:
    """Train student and autoencoder; `calibration.calibrate` makes a detector of them.

    Args:
        teacher: frozen; decides the size and the padding of the detector.
        images: what to train on.
        config: how to train.
        work: folder of the resume state and of the feature cache; a state there is taken up.
        after_epoch: called every `checkpoint_steps` steps; once more where a training is killed before the
            state of that step was written.

    Raises:
        UserError: the images are too small.
    """
    keep_freed_memory()
    check_image_size(*images.normal.shape[1:])
    torch.manual_seed(config.seed)
    model = EfficientAD(teacher.size, teacher.padding, teacher.count_include_pad)
    model.teacher.load_state_dict(teacher.state_dict())
    model = model.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    with cpu_kernels(model, enabled=device().type == "cpu"):
        features = TeacherFeatures(model.teacher, images.normal, work / "teacher_features.npy")
        module = EfficientADModule(model, images, features, config)
        fit(module, config, work, after_epoch)
    return Trained(module.model.to(device()).eval(), module.history)


class _AfterEpoch(Callback):
    def __init__(self, call: AfterEpoch) -> None:
        self.call = call

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, EfficientADModule)
        module.model.eval()
        self.call(module.model, trainer.global_step)
        module.model.train()


def fit(
    module: EfficientADModule, config: TrainingConfig, work: Path, after_epoch: AfterEpoch | None = None
) -> None:
    """Run Lightning, from the state in `work` where there is one."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    checkpoint = ModelCheckpoint(
        dirpath=work,
        filename=Path(STATE).stem,
        save_on_train_epoch_end=True,
        every_n_epochs=1,
        enable_version_counter=False,
    )
    trainer = lightning.Trainer(
        # Not max_steps: with it Lightning resumes a state of an epoch's end inside that epoch, and ends.
        max_epochs=math.ceil(config.steps / config.checkpoint_steps),
        **trainer_arguments(),
        logger=False,
        callbacks=[checkpoint, progress(config.steps), *([_AfterEpoch(after_epoch)] if after_epoch else [])],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        deterministic="warn",
    )
    state = work / STATE
    # "last" would silently start afresh where the file is missing: name it or say None.
    trainer.fit(module, ckpt_path=state if state.is_file() else None, weights_only=True)
