"""What a tokenizer leaves out of images: codes, unrounded reconstructions, and the detail between both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.hardware import autocast, device_of
from metaldefect.images import U8, decoded_levels, to_tanh_range
from metaldefect.synthesis.exemplars import Exemplars
from metaldefect.synthesis.grain import Grain
from metaldefect.tokenizer.model import VQModel


@torch.no_grad()
def codes_and_levels(
    model: VQModel, images: U8, batch_size: int = 8
) -> tuple[torch.Tensor, NDArray[np.float32]]:
    """Codes `int64 [N, h, w]` and unrounded levels of the reconstructions.

    Levels are `float32` of the shape of the images: `[N, H, W]`, or `[N, H, W, 3]` for a model of colours.
    """
    on = device_of(model)
    codes, levels = [], []
    for start in tqdm(range(0, len(images), batch_size), desc="through the tokenizer", unit="batch"):
        with autocast(on):
            batch = to_tanh_range(images[start : start + batch_size]).to(on)
            found = model.encode(batch)
            decoded = model.decode(found, model.field(batch))
            levels.append(decoded_levels(decoded, model.config.image_channels))
        codes.append(found.cpu())
    return torch.cat(codes), np.concatenate(levels)


def measure_detail(model: VQModel, images: U8, labels: Sequence[str]) -> tuple[Grain, Exemplars]:
    """Measure what the tokenizer leaves out of training images: its statistics, and examples of it.

    Args:
        model: the tokenizer.
        images: `uint8 [N, size, size]`, or `[N, size, size, 3]` for a model of colours.
        labels: class of each image.
    """
    codes, levels = codes_and_levels(model, images)
    codebook = model.config.codebook_size
    fields = torch.cat([model.field(to_tanh_range(images[k : k + 1])) for k in range(len(images))])
    return (
        Grain.fit(images, levels, codes.numpy(), codebook),
        Exemplars.of(images, levels, fields, codes.numpy(), labels, codebook),
    )
