"""MaskGIT's training from start to end: one or two stages, watched on held-out tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import TensorDataset

from metaldefect.errors import UserError
from metaldefect.maskgit.evaluation import held_out_cross_entropy
from metaldefect.maskgit.lightning_module import MaskGITLightning, MaskGITTrainingConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.soft_targets import SoftTargets
from metaldefect.training.snapshots import Snapshots, SnapshotWriter
from metaldefect.training.trainer import History, fit


class HeldOutWatch(Callback):
    """Every so many steps: cross-entropies of held-out tokens under the averaged weights, and a look.

    Rows hold `step`, `ce_true`, `ce_wrong`, `ce_null`, `top1`, `top5` and `ce_at_<mask ratio>`. They
    travel in checkpoints. `look` is called with the step and the averaged model.
    """

    def __init__(
        self,
        tokens: Tensor,
        labels: Tensor,
        every: int,
        seed: int,
        first_step: int = 0,
        look: Callable[[int, MaskGIT], None] | None = None,
    ) -> None:
        self.tokens, self.labels = tokens, labels
        self.every, self.seed, self.first_step, self.look = every, seed, first_step, look
        self.rows: History = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, MaskGITLightning)
        before = trainer.global_step - int(trainer.num_training_batches)
        if trainer.global_step // self.every == before // self.every:
            return
        model = copy.deepcopy(module.model).eval()
        module.average.copy_to(model)
        found = held_out_cross_entropy(model, self.tokens, self.labels, seed=self.seed)
        step = self.first_step + trainer.global_step
        row = {"step": float(step)}
        row |= {f"ce_{name}": float(found[name]) for name in ("true", "wrong", "null")}
        row |= {name: float(found[name]) for name in ("top1", "top5")}
        row |= {f"ce_at_{ratio}": float(values["true"]) for ratio, values in found["per_ratio"].items()}
        self.rows.append(row)
        if self.look is not None:
            self.look(step, model)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])


@dataclass(frozen=True)
class Schedule:
    """How long and on what MaskGIT is trained.

    Attributes:
        unconditional_steps: of a first stage in which no label is shown and every image counts alike; part
            of the configuration's steps. 0: one stage.
        batch_size: images a step.
        checkpoint_steps: steps between checkpoints.
        seed: of batches, masks and dropout.
        weights: of each training image in the conditional stage; None: all alike.
    """

    unconditional_steps: int
    batch_size: int
    checkpoint_steps: int
    seed: int
    weights: Sequence[float] | None


@dataclass(frozen=True)
class Watch:
    """What is looked at while training: held-out tokens, how often, and who else looks."""

    tokens: Tensor
    labels: Tensor
    every: int
    look: Callable[[int, MaskGIT], None] | None = None


def train(
    model: MaskGIT,
    config: MaskGITTrainingConfig,
    tokens: Tensor,
    labels: Tensor,
    schedule: Schedule,
    checkpoint_directory: Path | None,
    soft: SoftTargets | None = None,
    watch: Watch | None = None,
    snapshots: Snapshots | None = None,
) -> tuple[History, History]:
    """Train `model` in place and leave the averaged weights in it, in eval mode.

    Args:
        model: with its start weights.
        config: of the whole training; its steps are shared out between the stages.
        tokens: `int [N, grid, grid]`, labels: `int64 [N]`.
        schedule: stages, batches and sampling weights.
        checkpoint_directory: a killed training goes on from here; None keeps no checkpoints.
        soft: neighbours for `config.soft_weight`.
        watch: what to look at meanwhile.
        snapshots: of the averaged weights, spaced over both stages.

    Returns:
        Means of what was logged per checkpoint, and the held-out rows.

    Raises:
        UserError: more unconditional steps than steps.
    """
    first = schedule.unconditional_steps
    if first and first >= config.steps:
        raise UserError(
            f"unconditional_steps = {first} leaves nothing of {config.steps} steps for the classes"
        )
    data = TensorDataset(tokens, labels)
    history: History = []
    watched: History = []
    done = 0
    for name, steps in (("unconditional", first), ("conditional", config.steps - first)):
        conditional = name == "conditional"
        module = MaskGITLightning(model, replace(config, steps=steps, conditional=conditional), soft)
        watchers = []
        if watch is not None:
            watchers.append(
                HeldOutWatch(watch.tokens, watch.labels, watch.every, schedule.seed, done, watch.look)
            )
        rows = fit(
            module,
            data,
            steps=steps,
            batch_size=schedule.batch_size,
            epoch_steps=schedule.checkpoint_steps,
            # Another seed, or the second stage would see the first one's batches again
            seed=schedule.seed + (0 if conditional else 7919),
            checkpoint_directory=checkpoint_directory and checkpoint_directory / name,
            weights=schedule.weights if conditional else None,
            watchers=watchers,
            snapshots=snapshots and SnapshotWriter(snapshots, config.steps, done),
        )
        history += [row | {"step": row["step"] + done} for row in rows]
        watched += [row for watcher in watchers for row in watcher.rows]
        module.average.copy_to(model)
        done += steps
    model.eval()
    return history, watched
