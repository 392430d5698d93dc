"""Brown plates with red blotches, and tiny models that draw them in colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from metaldefect.images import grey_stack, to_tanh_range
from metaldefect.maskgit.checkpoints import save_maskgit
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.synthesis.residual import measure_detail
from metaldefect.tokenizer.checkpoints import save_tokenizer
from metaldefect.tokenizer.colour import colour_model
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import start_from_images

BROWN = np.array([150, 128, 100])
RED = np.array([205, 60, 55])
SIDE = 64
CLASSES = ("rust", "dent")
SMALL = VQConfig(
    channels=32,
    multipliers=(1, 1),
    encoder_blocks=1,
    decoder_blocks=1,
    z_channels=32,
    codebook_size=64,
    stem=4,
    patch_path=True,
    field=2,
    residual_gain=1.5,
    deblock=4,
)


def plates(count: int, seed: int = 0, red: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images `uint8 [N, 64, 64, 3]`, and where each is red, `bool [N, 64, 64]`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images, blotches = [], []
    for _ in range(count):
        y, x = rng.integers(18, SIDE - 18, 2)
        blotch = (np.hypot(rows - y, columns - x) < 12) & red
        grain = gaussian_filter(rng.normal(0, 12, (SIDE, SIDE)), 1.0)[..., None]
        levels = np.where(blotch[..., None], RED, BROWN) + grain
        images.append(np.clip(levels, 0, 255).astype(np.uint8))
        blotches.append(blotch)
    return np.stack(images), np.stack(blotches)


def coloured_tokenizer() -> VQModel:
    """A tokenizer in its closed-form start on plates."""
    torch.manual_seed(0)
    images, _ = plates(48)
    model = VQModel(SMALL).eval()
    start_from_images(model, grey_stack(images))
    return colour_model(model, images).eval()


def save_coloured_painter(tokenizer_folder: Path, maskgit_folder: Path, red: bool = True) -> None:
    """Write a tokenizer of plates and an untrained MaskGIT that draws with their codes, as the stages do.

    Args:
        tokenizer_folder: of the tokenizer.
        maskgit_folder: of the MaskGIT.
        red: whether the codes of red blotches are among those that are drawn.
    """
    model = coloured_tokenizer()
    save_tokenizer(model, tokenizer_folder, {"image_size": SIDE})
    images, _ = plates(12, seed=5, red=red)
    for detail in measure_detail(model, images, [CLASSES[number % 2] for number in range(12)]):
        detail.save(tokenizer_folder)
    codes = model.encode(to_tanh_range(images)).numpy()
    vocabulary = Vocabulary.of(codes, model.quantize.codebook.detach(), model.config.hue_dim)
    maskgit = MaskGIT(
        MaskGITConfig(dim=32, depth=1, heads=2, classes=2, codebook_size=len(vocabulary.codes), grid=8)
    )
    save_maskgit(maskgit, maskgit_folder, {"classes": list(CLASSES), "image_size": SIDE})
    vocabulary.save(maskgit_folder)
