"""Token grids that `tokenize` wrote for a sample table's images, and start weights for a model of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.artifacts import read_json
from metaldefect.errors import UserError
from metaldefect.ingest.loading import in_held_out, rows_of, training_rows
from metaldefect.ingest.samples import TABLE_NAME
from metaldefect.maskgit.checkpoints import CONFIG, read_halton, start_from_halton, start_from_saved
from metaldefect.maskgit.model import MaskGIT, start_from_codebook
from metaldefect.maskgit.vocabulary import Vocabulary

TOKENS = "tokens.npy"


class TokenGrids(NamedTuple):
    """Token grids with the table rows of their images."""

    tokens: NDArray[np.uint16]  # [N, grid, grid], numbers of the vocabulary
    labels: NDArray[np.int64]  # [N], class numbers
    table: pd.DataFrame

    @classmethod
    def training(cls, folder: Path, classes: Sequence[str]) -> TokenGrids:
        """The training grids; like `training_rows`, refuses rows of other splits."""
        return cls.of(folder, training_rows(folder), classes)

    @classmethod
    def held_out(cls, folder: Path, split: str, classes: Sequence[str]) -> TokenGrids:
        """The grids of one held-out split.

        Raises:
            UserError: `split` is not a held-out split, or has no rows.
        """
        whole = cls.of(folder, rows_of(folder), classes)
        chosen = in_held_out(whole.table, split, folder)
        return cls(whole.tokens[chosen], whole.labels[chosen], whole.table[chosen].reset_index(drop=True))

    @classmethod
    def of(cls, folder: Path, table: pd.DataFrame, classes: Sequence[str]) -> TokenGrids:
        """The grids in a folder for the rows of its table.

        Raises:
            UserError: a label is not among the classes, or the table does not fit the grids.
        """
        if unknown := sorted(set(table["label"]) - set(classes)):
            raise UserError(f"{folder / TABLE_NAME} has labels that are not classes: {', '.join(unknown)}")
        tokens = np.load(folder / TOKENS, mmap_mode="r")
        if len(tokens) != len(table):
            raise UserError(f"{folder}: {len(tokens)} token grids, {len(table)} rows in {TABLE_NAME}")
        numbers = {name: number for number, name in enumerate(classes)}
        return cls(tokens, np.array(table["label"].map(numbers), np.int64), table)

    def spread(self, limit: int) -> TokenGrids:
        """At most `limit` grids, evenly spaced."""
        chosen = np.linspace(0, len(self.tokens) - 1, min(limit, len(self.tokens))).astype(np.int64)
        return TokenGrids(
            self.tokens[chosen], self.labels[chosen], self.table.iloc[chosen].reset_index(drop=True)
        )

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Tokens `int64 [N, grid, grid]` and labels `int64 [N]`."""
        return torch.from_numpy(self.tokens.astype(np.int64)), torch.from_numpy(self.labels)


def start_weights(
    model: MaskGIT,
    base: str | None,
    codebook_start: float,
    codebook: Tensor,
    vocabulary: Vocabulary,
    classes: Sequence[str],
) -> None:
    """Fill a new model with its start weights.

    Args:
        model: to fill.
        base: path of a Halton-MaskGIT checkpoint, folder of a model of this project, or None.
        codebook_start: without a base, the scale of the codebook projection in the token embeddings.
        codebook: the tokenizer's entries of the vocabulary, `float [used, dim]`.
        vocabulary: of the tokens.
        classes: names of the labels.
    """
    if base and Path(base).is_dir():
        start_from_own(model, Path(base), vocabulary, classes)
    elif base:
        start_from_halton(model, read_halton(Path(base)), base, vocabulary.codes)
    elif codebook_start:
        start_from_codebook(model, codebook, codebook_start)


def start_from_own(model: MaskGIT, directory: Path, vocabulary: Vocabulary, classes: Sequence[str]) -> None:
    """Continue from a model of this project, whose tokens and classes must mean the same.

    Raises:
        UserError: the vocabularies or classes differ.
    """
    codes = Vocabulary.load(directory).codes
    if not torch.equal(codes, vocabulary.codes):
        raise UserError(
            f"train_maskgit.base: {directory} draws with {len(codes)} codes of the codebook, the tokens have "
            f"{len(vocabulary.codes)} others; set tokenize.vocabulary to full in both runs"
        )
    known = read_json(directory / CONFIG).get("classes")
    if known != list(classes):
        raise UserError(f"train_maskgit.base: {directory} knows the classes {known}, not {tuple(classes)}")
    start_from_saved(model, directory)


def images_seen_before(base: str | None) -> int:
    """Number of images that the model at `base` was trained on; 0 if it does not say."""
    config = Path(base) / CONFIG if base else None
    return int(read_json(config).get("images_seen", 0)) if config and config.is_file() else 0
