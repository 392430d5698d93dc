"""A MaskGIT training as one value: the model's shape, its start weights, its loss and its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaldefect.ingest.splits import sampling_weights
from metaldefect.maskgit.config import named_config
from metaldefect.maskgit.lightning_module import MaskGITTrainingConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.soft_targets import soft_targets
from metaldefect.maskgit.token_data import TokenGrids, start_weights
from metaldefect.maskgit.training import Schedule, train
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.training.callbacks import History
from metaldefect.training.snapshots import Snapshots

# Keys of a training section that concern batches and files, not the loss
SCHEDULING = {
    "batch_size", "checkpoint_steps", "unconditional_steps", "balanced", "soft_neighbours",
    "soft_temperature", "snapshots",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained MaskGIT besides its tokens.

    Attributes:
        model: `size`, `heads`, `dropout`, `conditioning` and `mixing`, as `named_config` takes them.
        base: path of a checkpoint or model to start from; None starts from random weights.
        codebook_start: see `start_weights`.
        loss: settings of the whole training.
        schedule: batches and stages, without sampling weights.
        balanced: whether classes and sources get equal weight in the conditional stage.
        soft_neighbours, soft_temperature: see `soft_targets`; used if the loss has a soft weight.
    """

    model: Mapping[str, Any]
    base: str | None
    codebook_start: float
    loss: MaskGITTrainingConfig
    schedule: Schedule
    balanced: bool
    soft_neighbours: int
    soft_temperature: float

    @classmethod
    def of(cls, section: Mapping[str, Any], seed: int) -> Recipe:
        """Read a recipe from a settings section: model keys, `base`, `codebook_start` and `training`."""
        training = section["training"]
        return cls(
            {name: section[name] for name in ("size", "heads", "dropout", "conditioning", "mixing")},
            section["base"],
            section["codebook_start"],
            MaskGITTrainingConfig(**{k: v for k, v in training.items() if k not in SCHEDULING}),
            Schedule(
                training["unconditional_steps"],
                training["batch_size"],
                training["checkpoint_steps"],
                seed,
                None,
            ),
            training["balanced"],
            training["soft_neighbours"],
            training["soft_temperature"],
        )


def train_recipe(
    recipe: Recipe,
    data: TokenGrids,
    vocabulary: Vocabulary,
    codebook: Tensor,
    classes: Sequence[str],
    checkpoint_directory: Path | None,
    snapshots: Snapshots | None = None,
) -> tuple[MaskGIT, History]:
    """Train a recipe's model on tokens; return the model in eval mode, and what was logged.

    Args:
        recipe: what to train, from which start, and how.
        data: training tokens.
        vocabulary: maps the tokens to codes.
        codebook: all entries of the tokenizer, `float [codebook, dim]`.
        classes: names of the labels.
        checkpoint_directory: a killed training resumes from here; None keeps no checkpoints.
        snapshots: where to write the averaged weights, and how many.
    """
    torch.manual_seed(recipe.schedule.seed)
    model = MaskGIT(
        named_config(
            classes=len(classes),
            codebook_size=len(vocabulary.codes),
            grid=data.tokens.shape[1],
            **recipe.model,
        )
    )
    entries = codebook[vocabulary.codes]
    start_weights(model, recipe.base, recipe.codebook_start, entries, vocabulary, classes)
    weights = None
    if recipe.balanced:
        table = data.table
        weights = sampling_weights(table["label"].tolist(), table["source"].tolist()).tolist()
    soft = None
    if recipe.loss.soft_weight:
        soft = soft_targets(entries, recipe.soft_neighbours, recipe.soft_temperature)
    history = train(
        model,
        recipe.loss,
        torch.from_numpy(data.tokens.astype(np.int32)),
        torch.from_numpy(data.labels),
        replace(recipe.schedule, weights=weights),
        checkpoint_directory,
        soft,
        snapshots,
    )
    return model, history
