"""Snapshots of the averaged weights during a training, for learning curves that are measured afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file

from metaldefect.artifacts import atomic_file
from metaldefect.training.module import Trainee


@dataclass(frozen=True)
class Snapshots:
    """How many snapshots to write, and where.

    Each is a safetensors file named after its step, `step_000120.safetensors`. It holds the model's state
    dict, floating-point tensors in half precision: `model.load_state_dict(load_file(path))` reads it.

    Attributes:
        folder: created if missing.
        count: number of snapshots, evenly spaced from step 0 to the last step; at least 2.
    """

    folder: Path
    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"{self.count} snapshots: the first and the last step need one each")

    def steps(self, total: int) -> list[int]:
        """Steps after which a training of `total` steps writes a snapshot, ascending.

        >>> Snapshots(Path("snapshots"), 4).steps(100)
        [0, 33, 67, 100]
        """
        return sorted({round(total * k / (self.count - 1)) for k in range(self.count)})

    def path(self, step: int) -> Path:
        """The snapshot file of a step."""
        return self.folder / f"step_{step:06d}.safetensors"

    def written(self) -> list[tuple[int, Path]]:
        """(step, file) of each existing snapshot, ascending by step."""
        return [(int(path.stem[5:]), path) for path in sorted(self.folder.glob("step_*.safetensors"))]


class SnapshotWriter(Callback):
    """Writes the snapshots of a training, or of one of its stages.

    Args:
        snapshots: where to write, and how many.
        total: steps of the whole training.
        first_step: steps of the whole training before this stage.
    """

    def __init__(self, snapshots: Snapshots, total: int, first_step: int = 0) -> None:
        self.snapshots, self.first_step = snapshots, first_step
        self.wanted = frozenset(snapshots.steps(total))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Trainee)
        present = self.first_step + module.step
        for step, path in self.snapshots.written():
            # From another training in this folder, or from a run that was killed after its last checkpoint
            if step > present or present == 0:
                path.unlink()
        if present in self.wanted and not self.snapshots.path(present).is_file():
            self.write(module, present)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        assert isinstance(module, Trainee)
        present = self.first_step + module.step
        if present in self.wanted:
            self.write(module, present)

    def write(self, module: Trainee, step: int) -> None:
        """Write the current averaged weights, atomically."""
        assert module.average is not None
        state = {
            name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
            for name, tensor in module.average.module.state_dict().items()
        }
        with torch.no_grad(), atomic_file(self.snapshots.path(step)) as temporary:
            save_file(state, temporary)
