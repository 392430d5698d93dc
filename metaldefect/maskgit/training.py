"""MaskGIT's training, in one or two stages."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.utils.data import TensorDataset

from metaldefect.errors import UserError
from metaldefect.maskgit.lightning_module import MaskGITLightning
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.soft_targets import SoftTargets
from metaldefect.maskgit.training_config import MaskGITTrainingConfig, Schedule
from metaldefect.training.callbacks import History
from metaldefect.training.data import SampledBatches
from metaldefect.training.snapshots import Snapshots, SnapshotWriter
from metaldefect.training.trainer import fit


def train(
    model: MaskGIT,
    config: MaskGITTrainingConfig,
    tokens: Tensor,
    labels: Tensor,
    schedule: Schedule,
    checkpoint_directory: Path | None,
    soft: SoftTargets | None = None,
    snapshots: Snapshots | None = None,
    defects: Tensor | None = None,
) -> History:
    """Train `model` in place and leave the averaged weights in it, in eval mode.

    Args:
        model: with its start weights.
        config: of the whole training; its steps are split between the stages.
        tokens: `int [N, grid, grid]`, labels: `int64 [N]`.
        schedule: stages, batches and sampling weights.
        checkpoint_directory: a killed training resumes from here; None keeps no checkpoints.
        soft: neighbours for `config.soft_weight`.
        snapshots: of the averaged weights, spaced over both stages.
        defects: cells of each image's defects, `bool [N, grid, grid]`; see `training_mask`.

    Returns:
        Means of the logged values per checkpoint.

    Raises:
        UserError: more unconditional steps than steps.
    """
    first = schedule.unconditional_steps
    if first and first >= config.steps:
        raise UserError(
            f"unconditional_steps = {first} leaves nothing of {config.steps} steps for the classes"
        )
    data = TensorDataset(tokens, labels) if defects is None else TensorDataset(tokens, labels, defects)
    history: History = []
    done = 0
    for name, steps in (("unconditional", first), ("conditional", config.steps - first)):
        conditional = name == "conditional"
        module = MaskGITLightning(
            model, config.model_copy(update={"steps": steps, "conditional": conditional}), soft
        )
        # With the same seed, the second stage would repeat the first one's batches
        seed = schedule.seed + (0 if conditional else 7919)
        rows = fit(
            module,
            SampledBatches(data, schedule.batch_size, seed, schedule.weights if conditional else None),
            steps=steps,
            epoch_steps=schedule.checkpoint_steps,
            seed=seed,
            checkpoint_directory=checkpoint_directory and checkpoint_directory / name,
            snapshots=snapshots and SnapshotWriter(snapshots, config.steps, done),
        )
        history += [row | {"step": row["step"] + done} for row in rows]
        module.average.copy_to(model)
        done += steps
    model.eval()
    return history
