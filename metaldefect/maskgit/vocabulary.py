"""MaskGIT's vocabulary: the tokenizer's codes, renumbered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.artifacts import atomic_file
from metaldefect.tokenizer.quantizer import closeness

VOCABULARY = "vocabulary.safetensors"


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's codes that the training data uses, numbered without gaps.

    `codes[i]` (`int64 [used]`) is the tokenizer's code of token i. `nearest[c]` (`int64 [codebook]`) is
    the token of code c itself, or of the used code nearest to it.
    """

    codes: Tensor
    nearest: Tensor

    @classmethod
    def of(cls, train_codes: NDArray[np.integer], codebook: Tensor, hue: int = 0) -> Vocabulary:
        """Vocabulary of the codes in `train_codes`.

        Args:
            train_codes: of any shape.
            codebook: the tokenizer's normalised entries, `float [size, dim]`.
            hue: how many of their coordinates are outside the normalisation.
        """
        codebook = codebook.cpu()
        codes = torch.from_numpy(np.unique(train_codes).astype(np.int64))
        nearest = closeness(codebook, codebook[codes], hue).argmax(dim=1)
        nearest[codes] = torch.arange(len(codes))
        return cls(codes, nearest)

    @classmethod
    def full(cls, codebook_size: int) -> Vocabulary:
        """All codes under their original numbers, used or not."""
        return cls(torch.arange(codebook_size), torch.arange(codebook_size))

    def save(self, directory: Path) -> None:
        """Write `vocabulary.safetensors`."""
        with atomic_file(directory / VOCABULARY) as temporary:
            safetensors.torch.save_file({"codes": self.codes, "nearest": self.nearest}, temporary)

    @classmethod
    def load(cls, directory: Path) -> Vocabulary:
        """Read what `save` wrote."""
        return cls(**safetensors.torch.load_file(directory / VOCABULARY))
