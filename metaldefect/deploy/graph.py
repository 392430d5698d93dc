"""The detector as one graph that turns a camera frame into an anomaly map and a score."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metaldefect.efficientad.torch_model import FEATURES, EfficientAD
from metaldefect.images import IMAGENET_MEAN, IMAGENET_STD

INPUT = "frame"
OUTPUTS = ("anomaly_map", "score")


class InspectionGraph(nn.Module):
    """Preprocessing, networks and map scaling in one module.

    The graph contains the scaling, so every program that runs it scales alike.

    Args:
        model: the trained detector; the graph holds a CPU copy with the teacher's constants folded.
    """

    def __init__(self, model: EfficientAD) -> None:
        super().__init__()
        self.model = fold_teacher_constants(model).eval()
        self.register_buffer("mean", 255.0 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255.0 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    mean: Tensor
    std: Tensor

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return map `float32 [N, 1, H, W]` and score `float32 [N]` of frames `uint8 [N, H, W, 1]`."""
        images = (frame.permute(0, 3, 1, 2).float() - self.mean) / self.std
        anomaly_map, score = self.model(images)
        return anomaly_map, score


def fold_teacher_constants(model: EfficientAD) -> EfficientAD:
    """Return a CPU copy whose teacher's last convolution outputs normalised features directly.

    The normalisation is folded into weights and bias: `teacher_mean` becomes 0, `teacher_std` 1. The result
    is mathematically equal.
    """
    folded = copy.deepcopy(model).cpu()
    last = folded.teacher.convolutions[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    std, mean = folded.teacher_std.view(FEATURES), folded.teacher_mean.view(FEATURES)
    with torch.no_grad():
        last.weight.copy_(last.weight / std.view(-1, 1, 1, 1))
        last.bias.copy_((last.bias - mean) / std)
        folded.teacher_mean.zero_()
        folded.teacher_std.fill_(1.0)
    return folded
