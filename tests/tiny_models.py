"""Untrained models small enough for tests, on disk as the stages leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from metaldefect.maskgit.checkpoints import save_maskgit
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.tokenizer.checkpoints import save_tokenizer
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.model import VQModel

CLASSES = ("scratches", "patches")
TINY = MaskGITConfig(dim=32, depth=2, heads=2, classes=3, codebook_size=11, grid=4)

TINY_TOKENIZER = VQConfig(
    channels=32, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, z_channels=32,
    codebook_size=32, stem=4,
)  # fmt: skip


def randomised(config: MaskGITConfig, seed: int = 0) -> MaskGIT:
    """A model whose every weight matters (fresh ones are the identity: their gates are closed)."""
    torch.manual_seed(seed)
    model = MaskGIT(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.eval()


def save_tiny_painter(tokenizer_folder: Path, maskgit_folder: Path, classes: Sequence[str] = CLASSES) -> None:
    """Write a tokenizer and a MaskGIT that draw noise at 64 px."""
    torch.manual_seed(0)
    tokenizer = VQModel(TINY_TOKENIZER)
    save_tokenizer(tokenizer, tokenizer_folder)
    maskgit = MaskGIT(MaskGITConfig(dim=32, depth=1, heads=2, classes=len(classes), codebook_size=20, grid=8))
    save_maskgit(maskgit, maskgit_folder, {"classes": list(classes), "image_size": 64})
    Vocabulary.of(np.arange(20), tokenizer.quantize.codebook.detach()).save(maskgit_folder)
