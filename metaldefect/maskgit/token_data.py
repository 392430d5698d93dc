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
from metaldefect.maskgit.checkpoints import (
    CONFIG,
    SHIPPED,
    read_halton,
    read_maskgit_weights,
    start_from_halton,
)
from metaldefect.maskgit.model import MaskGIT, start_from_codebook
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.tokenizer.checkpoints import load_strict
from metaldefect.tokenizer.codes import codebook_digest, grey_codebook_digest
from metaldefect.tokenizer.model import VQModel

TOKENS = "tokens.npy"
DEFECTS = "defects.npy"
CODEBOOK = "codebook_sha256"  # in a model's card: the content of the tokenizer's codebook


class TokenGrids(NamedTuple):
    """Token grids with the table rows of their images."""

    tokens: NDArray[np.uint16]  # [N, grid, grid], numbers of the vocabulary
    labels: NDArray[np.int64]  # [N], class numbers
    table: pd.DataFrame
    defects: NDArray[np.bool_] | None = None  # [N, grid, grid], cells of defects; see `defect_cells`

    @classmethod
    def training(cls, folder: Path, classes: Sequence[str]) -> TokenGrids:
        """The training grids with their defects; like `training_rows`, refuses rows of other splits."""
        found, path = cls.of(folder, training_rows(folder), classes), folder / DEFECTS
        return found._replace(defects=np.load(path)) if path.is_file() else found

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
    alike: Tensor | None = None,
) -> None:
    """Fill a new model with its start weights.

    Args:
        model: to fill.
        base: `shipped` (the weights in this package), path of a Halton-MaskGIT checkpoint, folder of a model
            of this project, or None.
        codebook_start: without a base, the scale of the codebook projection in the token embeddings.
        codebook: the tokenizer's entries of the vocabulary, `float [used, dim]`.
        vocabulary: of the tokens.
        classes: names of the labels.
        alike: for each code of the tokenizer the one that stands in for it in a base that lacks it,
            `int64 [codebook]`; None: no code does.
    """
    folder = base_folder(base)
    if folder is not None:
        start_from_own(model, folder, vocabulary, classes, alike)
    elif base:
        start_from_halton(model, read_halton(Path(base)), base, vocabulary.codes)
    elif codebook_start:
        start_from_codebook(model, codebook, codebook_start)


def base_folder(base: str | None) -> Path | None:
    """The folder of a base that is a model of this project; None for any other base."""
    if base == "shipped":
        return SHIPPED
    return Path(base) if base and Path(base).is_dir() else None


def require_same_codes(base: str | None, tokenizer: VQModel, near: str | None = None) -> None:
    """Refuse a base of this project whose tokens are another tokenizer's; one that does not say is accepted.

    Args:
        base: see `start_weights`.
        tokenizer: whose tokens are to be learnt.
        near: digest of the codebook whose meaning its codes nearly keep (`NEAR_CODES` in its card), if any.

    Raises:
        UserError: the base was trained with another codebook.
    """
    folder = base_folder(base)
    expected = read_json(folder / CONFIG).get(CODEBOOK) if folder is not None else None
    if expected not in (None, near, codebook_digest(tokenizer), grey_codebook_digest(tokenizer)):
        raise UserError(
            f"train_maskgit.base: {base} draws with the codes of another tokenizer; set "
            "finetune_vq.training.mode to decoder_only or slow_codebook, which keep the codes, or"
            " train_maskgit.base to null"
        )


def start_from_own(
    model: MaskGIT,
    directory: Path,
    vocabulary: Vocabulary,
    classes: Sequence[str],
    alike: Tensor | None = None,
) -> None:
    """Start from a model of this project that draws with the same tokenizer's codes.

    Takes the rows of the codes in `vocabulary`, or of those that stand in for them (`alike`), and of the
    classes that the base knows. A class that it does not know starts as no class, like a picture of any kind.

    Raises:
        UserError: the base lacks codes of the vocabulary, or the shapes do not fit.
    """
    own = Vocabulary.load(directory).codes.tolist()
    place = {code: number for number, code in enumerate(own)}
    wanted = vocabulary.codes.tolist()
    if alike is not None:
        wanted = [code if code in place else int(alike[code]) for code in wanted]
    if missing := [code for code in wanted if code not in place]:
        raise UserError(
            f"train_maskgit.base: {directory} draws with {len(own)} codes of the codebook and lacks "
            f"{len(missing)} of the tokens' codes; set tokenize.vocabulary to full in the base's run"
        )
    known = list(read_json(directory / CONFIG)["classes"])
    tokens = [place[code] for code in wanted] + [len(own)]
    labels = [known.index(name) if name in known else len(known) for name in classes] + [len(known)]
    state = read_maskgit_weights(directory)
    for key in ("tok_emb.weight", "head.weight", "head.bias"):
        state[key] = state[key][tokens]
    state["cls_emb.weight"] = state["cls_emb.weight"][labels]
    load_strict(model, state, str(directory))


def images_seen_before(base: str | None) -> int:
    """Number of images that the model at `base` was trained on; 0 if it does not say."""
    folder = base_folder(base)
    return int(read_json(folder / CONFIG).get("images_seen", 0)) if folder is not None else 0
