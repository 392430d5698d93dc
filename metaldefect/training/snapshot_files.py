"""Read the snapshots of a training: select which to measure, and load one into a model."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from metaldefect.errors import UserError

FOLDER = "snapshots"


def spread_snapshots(model_folder: Path, points: int) -> dict[int, Path]:
    """Map steps to files: the first snapshot of a model and `points` evenly spaced later ones.

    Always includes the last snapshot; with fewer than `points`, returns all.

    Raises:
        UserError: the model has no snapshots.
        ValueError: `points` is below 1.
    """
    if points < 1:
        raise ValueError(f"{points} points are no curve: at least 1 is needed")
    folder = model_folder / FOLDER
    files = {int(path.stem.removeprefix("step_")): path for path in folder.glob("step_*.safetensors")}
    if not files:
        raise UserError(f"{folder} holds no snapshots: run the training that writes them")
    steps = sorted(files)
    places = sorted({round(k * (len(steps) - 1) / points) for k in range(points + 1)})
    return {steps[place]: files[steps[place]] for place in places}


def load_snapshot(model: nn.Module, path: Path) -> None:
    """Overwrite the model's parameters with a snapshot's.

    Raises:
        UserError: the snapshot belongs to another model.
    """
    state = safetensors.torch.load_file(path)
    own = dict(model.named_parameters())
    if wrong := sorted(n for n in own if n not in state or state[n].shape != own[n].shape):
        raise UserError(f"{path} is a snapshot of another model: {', '.join(wrong[:5])} do not fit")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
