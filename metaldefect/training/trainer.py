"""The one trainer: every training of this project calls `fit`.

Training runs in epochs of a fixed number of steps. A step's batch and random numbers depend only on (seed,
step), and each epoch ends with a checkpoint. So a run that was killed resumes from there and reaches the same
weights as an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from metaldefect.hardware import (
    device,
    keep_freed_memory,
    request_deterministic_kernels,
    trainer_arguments,
    workers,
)
from metaldefect.kernels.switch import cpu_kernels
from metaldefect.training.callbacks import (
    Checkpoint,
    ComputingTime,
    EndOfStep,
    History,
    Progress,
    Recorder,
    Reseed,
)
from metaldefect.training.data import Batches, Prefetched, Prefetcher
from metaldefect.training.module import Trainee
from metaldefect.training.resume import resume_key, state_to_take_up
from metaldefect.training.snapshots import Snapshots, SnapshotWriter

LAST = "last.ckpt"
NOISE = (
    ".*does not have many workers.*",
    ".*reload_dataloaders_every_n_epochs.*",
    ".*`train_dataloader` returned an object of type.*",
    ".*modules in eval mode.*",
    # Lightning itself uses what torch deprecated
    ".*isinstance.treespec, LeafSpec.*",
    # When resuming a training that was already complete
    ".*across ranks is zero.*",
    # The discriminator starts after its schedule
    ".*lr_scheduler.step.*before.*optimizer.step.*",
)


class _EpochData(pl.LightningDataModule):
    """The steps of the current epoch; Lightning requests a new loader for each."""

    def __init__(self, module: Trainee, batches: Prefetcher, epoch_steps: int, steps: int | None) -> None:
        super().__init__()
        self.module, self.batches, self.epoch_steps, self.steps = module, batches, epoch_steps, steps

    def train_dataloader(self) -> Prefetched:
        left = self.epoch_steps if self.steps is None else max(0, self.steps - self.module.step)
        return self.batches.steps(self.module.step, min(self.epoch_steps, left))


def make_trainer(callbacks: Sequence[Callback], max_epochs: int) -> pl.Trainer:
    """Make Lightning's trainer with our settings, on the device and in the precision of `hardware`."""
    request_deterministic_kernels()
    return pl.Trainer(
        max_epochs=max_epochs,
        **trainer_arguments(),
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=1,
    )


def fit(
    module: Trainee,
    batches: Batches,
    *,
    steps: int | None,
    epoch_steps: int,
    seed: int,
    checkpoint_directory: Path | None,
    record_steps: int | None = None,
    watchers: Sequence[Callback] = (),
    snapshots: Snapshots | SnapshotWriter | None = None,
    clock: ComputingTime | None = None,
) -> History:
    """Train `module` for exactly `steps` steps and return the means of what it logged.

    Resumes from the checkpoint in `checkpoint_directory` if nothing that determines the training has changed:
    settings, start weights, data, and whatever else the module and the batches return from `content()`. If
    something changed, prints what, and training starts from the beginning.

    Args:
        module: its `training_step` logs every value to record.
        batches: the batch of each step.
        steps: None: until the `clock` runs out.
        epoch_steps: steps between two checkpoints.
        seed: of the random numbers drawn in steps.
        checkpoint_directory: None keeps no checkpoint.
        record_steps: steps per row of the result; None: `epoch_steps`.
        watchers: callbacks for each epoch's end, called before the checkpoint that saves their state.
        snapshots: of the averaged weights; a `SnapshotWriter` if this training is one stage of several.
        clock: counts the computing time, and limits it.

    Raises:
        FloatingPointError: a logged value or a gradient is not finite; the last good checkpoint is kept.
        ValueError: neither `steps` nor the clock limits the training.
    """
    if steps is None and (clock is None or clock.limit is None):
        raise ValueError("a training needs a number of steps or a time limit")
    if steps == 0:
        return []
    keep_freed_memory()
    recorder = Recorder(record_steps or epoch_steps, steps)
    callbacks: list[Callback] = [Reseed(seed), EndOfStep(), recorder, *watchers]
    if clock is not None:
        callbacks.append(clock)
    if snapshots is not None:
        callbacks.append(snapshot_writer(snapshots, steps))
    callbacks.append(Progress(steps, clock))
    last, state = None, None
    if checkpoint_directory is not None:
        last = checkpoint_directory / LAST
        key = resume_key(
            {
                "epoch_steps": epoch_steps,
                "seed": seed,
                "start_weights": module.state_dict(),
                **module.content(),
                **batches.content(),
            }
        )
        state = state_to_take_up(last, key)
        callbacks.append(Checkpoint(last, key))
    on_cpu = device().type == "cpu"
    with (
        quiet_lightning(),
        cpu_kernels(module, enabled=on_cpu),
        Prefetcher(batches, 0 if on_cpu else workers()) as prefetcher,
    ):
        data = _EpochData(module, prefetcher, epoch_steps, steps)
        trainer = make_trainer(callbacks, last_epoch(state, steps, epoch_steps, clock))
        trainer.fit(module, datamodule=data, ckpt_path=last if state is not None else None, weights_only=True)
    return recorder.rows


def snapshot_writer(snapshots: Snapshots | SnapshotWriter, steps: int | None) -> SnapshotWriter:
    """The given callback, or one that writes the snapshots of a single-stage training."""
    if isinstance(snapshots, SnapshotWriter):
        return snapshots
    if steps is None:
        raise ValueError("snapshots cannot be spaced over a training without a number of steps")
    return SnapshotWriter(snapshots, steps)


def last_epoch(
    state: Mapping[str, Any] | None, steps: int | None, epoch_steps: int, clock: ComputingTime | None
) -> int:
    """Number of epochs after which a training ends, including those before `state`; -1: the clock ends it."""
    epochs, done = (state["epoch"] + 1, state["step"]) if state is not None else (0, 0)
    if clock is not None and clock.limit is not None and state is not None:
        spent = state["callbacks"].get(clock.state_key, {}).get("seconds", 0.0)
        if spent >= clock.limit:
            return epochs
    return -1 if steps is None else epochs + math.ceil(max(0, steps - done) / epoch_steps)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's remarks on choices that are intentional."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
