"""An untrained detector with few channels, which scores a frame in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from metaldefect.efficientad.calibration import fit_map_quantiles
from metaldefect.efficientad.teacher_weights import save_teacher
from metaldefect.efficientad.torch_model import (
    FEATURES,
    Convolution,
    EfficientAD,
    PatchDescriptionNetwork,
)

SIZE = 128
SLIM = (
    Convolution(8, 4, 3, relu=True, pool=True),
    Convolution(16, 4, 3, relu=True, pool=True),
    Convolution(16, 3, 1, relu=True),
    Convolution(FEATURES, 4, 0, relu=False),
)


def save_slim_teacher(path: Path) -> Path:
    """Write a random teacher; `LAYERS["S"]` must be `SLIM`."""
    torch.manual_seed(0)
    save_teacher(path, PatchDescriptionNetwork("S"), {"what": "random"})
    return path


def noise(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)


def slim_model(seed: int = 0, **options: bool) -> EfficientAD:
    """An untrained PDN-S with a sixteenth of the channels and a calibration that matters."""
    torch.manual_seed(seed)
    model = EfficientAD("S", **options).eval()
    model.teacher_mean.copy_(0.01 * torch.randn(1, 384, 1, 1))
    model.teacher_std.copy_(0.02 + 0.02 * torch.rand(1, 384, 1, 1))
    fit_map_quantiles(model, noise())
    model.map_weights.copy_(torch.tensor([0.75, 0.25]))  # not the paper's, to see that they are exported
    return model
