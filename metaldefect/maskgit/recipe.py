"""A MaskGIT training as one value: the model's shape, its start weights, its loss and its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaldefect.ingest.splits import sampling_weights
from metaldefect.maskgit.config import ShapeSettings, named_config
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.soft_targets import soft_targets
from metaldefect.maskgit.token_data import TokenGrids, start_weights
from metaldefect.maskgit.training import train
from metaldefect.maskgit.training_config import MaskGITTrainingConfig, RecipeSettings, Schedule
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.training.callbacks import History
from metaldefect.training.snapshots import Snapshots


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained MaskGIT besides its tokens.

    Attributes:
        settings: the model's shape, what it starts from, and the training.
        schedule: batches and stages, without sampling weights.
    """

    settings: RecipeSettings
    schedule: Schedule

    @classmethod
    def of(cls, settings: RecipeSettings, seed: int) -> Recipe:
        """The recipe of settings that may hold further keys."""
        return cls(settings, Schedule.of(settings.training, seed=seed))

    @property
    def loss(self) -> MaskGITTrainingConfig:
        """Loss and optimiser of the whole training."""
        return MaskGITTrainingConfig.of(self.settings.training)

    @property
    def shape(self) -> dict[str, Any]:
        """The keywords of `named_config` that are settings."""
        return ShapeSettings.of(self.settings).model_dump()


def train_recipe(
    recipe: Recipe,
    data: TokenGrids,
    vocabulary: Vocabulary,
    codebook: Tensor,
    classes: Sequence[str],
    checkpoint_directory: Path | None,
    snapshots: Snapshots | None = None,
    alike: Tensor | None = None,
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
        alike: see `start_weights`.
    """
    settings, training = recipe.settings, recipe.settings.training
    torch.manual_seed(recipe.schedule.seed)
    model = MaskGIT(
        named_config(
            classes=len(classes),
            codebook_size=len(vocabulary.codes),
            grid=data.tokens.shape[1],
            **recipe.shape,
        )
    )
    entries = codebook[vocabulary.codes]
    start_weights(model, settings.base, settings.codebook_start, entries, vocabulary, classes, alike)
    weights = None
    if training.balanced:
        table = data.table
        weights = sampling_weights(table["label"].tolist(), table["source"].tolist()).tolist()
    soft = None
    if training.soft_weight:
        soft = soft_targets(entries, training.soft_neighbours, training.soft_temperature)
    history = train(
        model,
        recipe.loss,
        torch.from_numpy(data.tokens.astype(np.int32)),
        torch.from_numpy(data.labels),
        recipe.schedule.model_copy(update={"weights": weights}),
        checkpoint_directory,
        soft,
        snapshots,
        None if data.defects is None else torch.from_numpy(data.defects),
    )
    return model, history
