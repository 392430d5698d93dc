"""Snapshots of the averaged weights along a training, for learning curves that are measured afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file

from metaldefect.artifacts import atomic_file


@dataclass(frozen=True)
class Snapshots:
    """How many snapshots to write, and where.

    Each is a safetensors file named after its step, `step_000120.safetensors`. It holds the model's
    parameters in half precision.

    Attributes:
        folder: made where it is missing.
        count: evenly spaced over the training, with step 0 and the last step; at least 2.
    """

    folder: Path
    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"{self.count} snapshots: the first and the last step need one each")

    def steps(self, total: int) -> list[int]:
        """The steps of a training of `total` steps after which a snapshot is written, increasing.

        >>> Snapshots(Path("snapshots"), 4).steps(100)
        [0, 33, 67, 100]
        """
        return sorted({round(total * k / (self.count - 1)) for k in range(self.count)})

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step_{step:06d}.safetensors"

    def written(self) -> list[tuple[int, Path]]:
        """(step, file) of each snapshot that is there, by step."""
        return [(int(path.stem[5:]), path) for path in sorted(self.folder.glob("step_*.safetensors"))]


class SnapshotWriter(Callback):
    """Writes the snapshots of a training, or of one of its stages, at the ends of epochs."""

    def __init__(self, snapshots: Snapshots, total: int, first_step: int = 0) -> None:
        self.snapshots, self.first_step = snapshots, first_step
        self.wanted = frozenset(snapshots.steps(total))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.first_step == 0 and trainer.current_epoch == 0:
            self.write(module, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        steps = int(trainer.num_training_batches)
        after = self.first_step + (trainer.current_epoch + 1) * steps
        if any(after - steps < step <= after for step in self.wanted):
            self.write(module, after)

    def write(self, module: pl.LightningModule, step: int) -> None:
        """Write the averaged weights of now, atomically."""
        model, average = module.model, module.average
        assert isinstance(model, torch.nn.Module)
        assert isinstance(average, torch.nn.Module)
        names = [name for name, _ in model.named_parameters()]
        state = {n: average.get_buffer(n.replace(".", "/")).half().cpu().contiguous() for n in names}
        with torch.no_grad(), atomic_file(self.snapshots.path(step)) as temporary:
            save_file(state, temporary)
