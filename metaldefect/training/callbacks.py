"""Callbacks that the trainer runs in every training."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from metaldefect.artifacts import atomic_file
from metaldefect.hardware import device
from metaldefect.training.module import Trainee, not_finite

History = list[dict[str, float]]


class Reseed(Callback):
    """Makes a step's random numbers (masks, dropout) depend only on (seed, step).

    Reseed at every step: creating a loader's iterator consumes random numbers, and a resumed run creates it
    at a different point.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int
    ) -> None:
        assert isinstance(module, Trainee)
        torch.manual_seed(self.seed * 1_000_003 + module.step)


class EndOfStep(Callback):
    """Counts the step and updates the average, before any other callback reads them."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        assert isinstance(module, Trainee)
        module.step += 1
        if module.average is not None:
            module.average.update_parameters(module.model)


class Recorder(Callback):
    """Records means over `interval` steps of everything the module logs, one row each; saved in checkpoints.

    Stops the training if a logged value is not finite.
    """

    def __init__(self, interval: int, steps: int | None) -> None:
        self.interval, self.steps = interval, steps
        self.rows: History = []
        self.values: dict[str, list[float]] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        assert isinstance(module, Trainee)
        logged = trainer.callback_metrics
        # One transfer from the device for all values
        numbers = torch.stack([value.detach().float() for value in logged.values()]).tolist()
        for name, number in zip(logged, numbers, strict=True):
            if not math.isfinite(number):
                raise FloatingPointError(not_finite(name, number, module.step - 1))
            self.values.setdefault(name, []).append(number)
        if module.step % self.interval == 0 or module.step == self.steps:
            means = {name: sum(found) / len(found) for name, found in sorted(self.values.items())}
            self.rows.append({"step": float(module.step), **means})
            self.values = {}

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.values = list(state["rows"]), dict(state["values"])


class ComputingTime(Callback):
    """Counts the computing time of a training over all its resumed runs, and stops it at a limit.

    On a CPU, computing time is processor time divided by the number of threads, so a process that is paused
    or shares the machine does not stop early. A GPU's work costs no processor time: there the clock on the
    wall counts.

    Attributes:
        limit: seconds after which training stops; None: never.
        seconds: computing time so far.
        legs: start, limit and threads of each run of the training. A longer limit flattens a schedule that
            follows the time, and a second on two threads does more work than one on a single thread.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit, self.seconds = limit, 0.0
        self.legs: list[dict[str, float | None]] = []
        self._mark = 0.0

    @property
    def share(self) -> float:
        """Share of the limit that is used up; 0 without a limit."""
        return self.seconds / self.limit if self.limit else 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Trainee)
        self._mark = computing_time()
        self.legs.append(
            {
                "from_step": module.step,
                "from_seconds": self.seconds,
                "seconds": self.limit,
                "threads": torch.get_num_threads(),
            }
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        now = computing_time()
        self.seconds, self._mark = self.seconds + now - self._mark, now
        if self.share >= 1:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "legs": self.legs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds, self.legs = state["seconds"], list(state["legs"])


def computing_time() -> float:
    """Seconds computed: processor time divided by the number of threads, or time on the wall beside a GPU."""
    if device().type != "cpu":
        return time.monotonic()
    return time.process_time() / torch.get_num_threads()


class Progress(Callback):
    """Shows steps, latest values and time left: a bar on a terminal, one line per epoch in a log."""

    def __init__(self, steps: int | None, clock: ComputingTime | None) -> None:
        self.steps, self.clock = steps, clock
        self.bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Trainee)
        self.started, self.first = time.monotonic(), module.step
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.steps, initial=module.step, desc="training", unit="step")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(values_of(trainer.callback_metrics), refresh=False)
            self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Trainee)
        if self.bar is not None or module.step == self.first:
            return
        pace = (time.monotonic() - self.started) / (module.step - self.first)
        done = f"step {module.step}" + (f"/{self.steps}" if self.steps else "")
        left = (self.steps - module.step) * pace if self.steps else math.inf
        if self.clock is not None and self.clock.limit:
            left = min(left, max(0.0, self.clock.limit - self.clock.seconds))
        print(
            f"{done}  {values_of(trainer.callback_metrics)}  {pace:.2f} s/step, {left:.0f} s left", flush=True
        )

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()


def values_of(logged: Mapping[str, Any]) -> str:
    """Format logged values for people."""
    return "  ".join(f"{name} {float(value):.4g}" for name, value in logged.items())


class Checkpoint(Callback):
    """Writes all that is needed to resume to one file at each epoch's end, when other records are complete.

    Args:
        path: the file, replaced each time.
        key: identifies what produced the state, see `resume_key`.
    """

    def __init__(self, path: Path, key: Mapping[str, str]) -> None:
        self.path, self.key = path, dict(key)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with atomic_file(self.path) as temporary:
            trainer.save_checkpoint(temporary)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["resume_key"] = self.key
