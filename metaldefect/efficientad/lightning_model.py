"""EfficientAD's training as a Lightning module: the losses and the optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metaldefect.efficientad.config import TrainingConfig
from metaldefect.efficientad.loss import distance_loss, hard_feature_loss, penalty_loss
from metaldefect.efficientad.torch_model import FEATURES, EfficientAD
from metaldefect.efficientad.training_data import Batch, TeacherFeatures, teacher_content
from metaldefect.training.callbacks import ComputingTime
from metaldefect.training.module import Trainee

DECAY_AT, DECAY = 0.95, 0.1  # when the learning rate drops, and to which share
RECORD_STEPS = 10  # steps per row of the loss curve
# At lower quantiles, so many positions have gradients that selecting them costs more than computing all.
SPARSE_FROM = 0.99


def training_losses(
    model: EfficientAD, batch: Batch, hard_quantile: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the total and its parts: `hard`, `penalty`, `autoencoder`, `imitation` (of the autoencoder).

    The student's three passes share one batch through the trunk, and each half of its last layer is
    computed only where a loss reads it. An image that its augmentation left unchanged (saturation of a grey
    image) passes only once. The results equal those of the plain formulation.
    """
    described = [batch.images] if batch.penalty is None else [batch.images, batch.penalty]
    pairs = zip(batch.images, batch.augmented, strict=True)
    changed = [index for index, (image, other) in enumerate(pairs) if not torch.equal(image, other)]
    if changed:
        described.append(batch.augmented[changed])
    normal, *others = model.student.trunk(torch.cat(described)).split([len(images) for images in described])
    augmented = list(normal.split(1))
    for index, features in zip(changed, others[-1].split(1) if changed else (), strict=True):
        augmented[index] = features
    weights, biases = (tensor.split(FEATURES) for tensor in model.student.head_parameters())
    convolve = model.student.convolve
    # Normal and natural images separately: the hard loss has gradients at few positions, the penalty at all.
    sparse = hard_quantile >= SPARSE_FROM
    as_teacher = convolve(normal, weights[0], biases[0], sparse=sparse)
    as_autoencoder = convolve(torch.cat(augmented), weights[1], biases[1]).float()
    penalty = batch.features.new_zeros(())
    if batch.penalty is not None:
        penalty = penalty_loss(convolve(others[0], weights[0], biases[0]).float())
    target = batch.features.clone()
    if changed:
        with torch.no_grad():
            target[changed] = model.normalised_teacher(batch.augmented[changed])
    reconstruction = model.autoencoder(batch.augmented).float()
    parts = {
        "hard": hard_feature_loss(batch.features, as_teacher, hard_quantile),
        "penalty": penalty,
        "autoencoder": distance_loss(target, reconstruction),
        "imitation": distance_loss(reconstruction, as_autoencoder),
    }
    return torch.stack(list(parts.values())).sum(), parts


class EfficientADModule(Trainee):
    """Trains the student and the autoencoder of a model whose teacher is set.

    Args:
        model: the networks; sets its `teacher_mean` and `teacher_std` from `features`.
        features: the teacher's features of the training images.
        config: how to train.
        clock: its computing time drives the learning rate if the time is limited.
    """

    model: EfficientAD

    def __init__(
        self,
        model: EfficientAD,
        features: TeacherFeatures,
        config: TrainingConfig,
        clock: ComputingTime | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.clock = model, config, clock
        model.teacher_mean.copy_(features.mean)
        model.teacher_std.copy_(features.std)

    def content(self) -> dict[str, Any]:
        """The settings and the teacher."""
        return {"settings": self.config, "teacher": teacher_content(self.model.teacher)}

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """One step's total loss."""
        total, parts = training_losses(self.model, batch, self.config.hard_quantile)
        self.log_dict({"loss": total.detach()} | {name: value.detach() for name, value in parts.items()})
        return total

    def configure_optimizers(self) -> Any:
        """Adam over student and autoencoder; the learning rate drops once."""
        parameters = [*self.model.student.parameters(), *self.model.autoencoder.parameters()]
        optimizer = torch.optim.Adam(
            parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay, fused=True
        )
        schedule: torch.optim.lr_scheduler.LRScheduler
        if (clock := self.clock) is not None:
            # torch's schedules count steps; if the time is limited, the drop must follow the time
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda _step: DECAY if clock.share >= DECAY_AT else 1.0
            )
        else:
            schedule = torch.optim.lr_scheduler.StepLR(
                optimizer, max(1, int(DECAY_AT * self.config.steps)), gamma=DECAY
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
