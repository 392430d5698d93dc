"""Training that resumes bit for bit: what all Lightning runs of this project share.

Training is cut into epochs of a fixed number of steps. The batches of an epoch and the random numbers
drawn in it are functions of (seed, epoch) alone, and a checkpoint is written at each epoch's end, so
a run that was killed goes on from there to the same weights that it would have reached undisturbed.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from torch.utils.data import DataLoader, Dataset, Sampler

from metaldefect.hardware import device, keep_freed_memory, trainer_arguments
from metaldefect.kernels.switch import cpu_kernels
from metaldefect.training.module import Trainee
from metaldefect.training.snapshots import Snapshots, SnapshotWriter

LAST = "last.ckpt"
History = list[dict[str, float]]


class EpochBatches(Sampler[list[int]]):
    """Batches of sample numbers for one epoch, drawn by (seed, epoch).

    Without `weights` each sample comes once before any comes again; with them, samples are drawn
    with replacement by weight. The number of steps and the batch size are exact.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: int,
        seed: int,
        epoch: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        if size < 1:
            raise ValueError("the training set is empty")
        self.size, self.batch_size, self.steps = size, batch_size, steps
        self.seed, self.epoch, self.weights = seed, epoch, weights

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        wanted = self.steps * self.batch_size
        if self.weights is not None:
            weights = torch.as_tensor(self.weights, dtype=torch.double)
            order = torch.multinomial(weights, wanted, replacement=True, generator=generator)
        else:
            rounds = math.ceil(wanted / self.size)
            order = torch.cat([torch.randperm(self.size, generator=generator) for _ in range(rounds)])
        yield from order[:wanted].view(self.steps, self.batch_size).tolist()


class _EndOfStep(Callback):
    """Counts the step and updates the average, before any other callback looks at either."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        assert isinstance(module, Trainee)
        module.step += 1
        if module.average is not None:
            module.average.update_parameters(module.model)


class _EpochData(pl.LightningDataModule):
    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        epoch_steps: int,
        seed: int,
        weights: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.epoch_steps = dataset, batch_size, epoch_steps
        self.seed, self.weights = seed, weights

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        batches = EpochBatches(
            len(self.dataset),  # type: ignore[arg-type]
            self.batch_size,
            self.epoch_steps,
            self.seed,
            self.trainer.current_epoch,
            self.weights,
        )
        return DataLoader(self.dataset, batch_sampler=batches)


class _Reseed(Callback):
    """Random numbers of a step (masks, dropout) depend on (seed, epoch, step), not on what came before.

    By the step and not by the epoch alone: making a data iterator draws from the generator too, and a
    resumed training makes them at other times.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int
    ) -> None:
        torch.manual_seed((self.seed * 1_000_003 + trainer.current_epoch) * 1_000_003 + index)


class _Recorder(Callback):
    """Means of everything the module logs, an epoch a row; travels with the checkpoint."""

    def __init__(self, epoch_steps: int) -> None:
        self.epoch_steps = epoch_steps
        self.rows: History = []
        self.sums: dict[str, list[float]] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        for key, value in trainer.callback_metrics.items():
            number = float(value)
            if not math.isfinite(number):
                step = trainer.current_epoch * self.epoch_steps + index
                raise FloatingPointError(
                    f"{key} became {number} at step {step}: training stopped, the last good "
                    "checkpoint is kept; lower the learning rate, or set METALDEFECT_PRECISION=float32"
                )
            self.sums.setdefault(key, []).append(number)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        row = {"step": float((trainer.current_epoch + 1) * self.epoch_steps)}
        self.rows.append(row | {key: sum(v) / len(v) for key, v in sorted(self.sums.items())})
        self.sums = {}

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])


class _EpochLines(Callback):
    """One line of progress an epoch, for logs."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.started = time.monotonic()
        self.done = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.done += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step = (trainer.current_epoch + 1) * int(trainer.num_training_batches)
        pace = (time.monotonic() - self.started) / self.done
        metrics = "  ".join(f"{key} {float(value):.4g}" for key, value in trainer.callback_metrics.items())
        left = max(0.0, (self.steps - step) * pace)
        print(f"step {step}/{self.steps}  {metrics}  {pace:.2f} s/step, {left:.0f} s left", flush=True)


def progress(steps: int) -> Callback:
    """A bar that redraws itself for a person, a line an epoch for a log."""
    return TQDMProgressBar() if sys.stderr.isatty() else _EpochLines(steps)


class EpochCheckpoint(ModelCheckpoint):
    """One checkpoint, rewritten at each epoch's end, after the record of the epoch is complete."""

    def __init__(self, directory: Path) -> None:
        super().__init__(dirpath=directory, filename="last", enable_version_counter=False, save_top_k=1)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.dirpath is not None:
            partial = Path(self.dirpath) / f".{LAST}.part"
            trainer.save_checkpoint(partial)
            partial.replace(Path(self.dirpath) / LAST)


def fit(
    module: Trainee,
    dataset: Dataset[Any],
    *,
    steps: int,
    batch_size: int,
    epoch_steps: int,
    seed: int,
    checkpoint_directory: Path | None,
    weights: Sequence[float] | None = None,
    watchers: Sequence[Callback] = (),
    snapshots: Snapshots | SnapshotWriter | None = None,
) -> History:
    """Train `module` for `steps` steps (rounded up to whole epochs) and return the means per epoch.

    Goes on from `checkpoint_directory` where an earlier run left a checkpoint. `watchers` are called at each
    epoch's end before the checkpoint is written, which carries their state. `snapshots` of the averaged
    weights are written on the way; a `SnapshotWriter` where this training is one stage of several.

    Raises:
        FloatingPointError: a logged value is not finite; the last good checkpoint is kept.
    """
    if steps == 0:
        return []
    keep_freed_memory()
    epoch_steps = min(epoch_steps, steps)
    recorder = _Recorder(epoch_steps)
    callbacks: list[Callback] = [_Reseed(seed), _EndOfStep(), recorder, *watchers]
    if snapshots is not None:
        writer = snapshots if isinstance(snapshots, SnapshotWriter) else SnapshotWriter(snapshots, steps)
        callbacks.append(writer)
    resume = None
    if checkpoint_directory is not None:
        checkpoint_directory.mkdir(parents=True, exist_ok=True)
        callbacks.append(EpochCheckpoint(checkpoint_directory))
        last = checkpoint_directory / LAST
        resume = last if last.is_file() else None
        if resume:
            print(f"going on from {resume}", flush=True)
    callbacks.append(progress(steps))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        max_epochs=math.ceil(steps / epoch_steps),
        **trainer_arguments(),
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_checkpointing=checkpoint_directory is not None,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=1,
    )
    data = _EpochData(dataset, batch_size, epoch_steps, seed, weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
        with cpu_kernels(module, enabled=device().type == "cpu"):
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return recorder.rows


def warmup_cosine(step: int, steps: int, warmup: int, floor: float = 0.05) -> float:
    """Learning-rate factor: linear from 0 over `warmup` steps, then a cosine down to `floor` at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
