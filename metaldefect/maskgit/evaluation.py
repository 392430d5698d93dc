"""How well MaskGIT predicts held-out tokens, and whether the class matters to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.hardware import autocast, device_of
from metaldefect.maskgit.model import MaskGIT

MASK_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)


def unigram_losses(
    train: NDArray[np.integer],
    train_labels: NDArray[np.integer],
    test: NDArray[np.integer],
    test_labels: NDArray[np.integer],
    codebook_size: int,
    classes: int,
) -> dict[str, NDArray[np.float64]]:
    """Cross-entropy, in nats, of each held-out grid under train token frequencies, `[N]`.

    `unigram` knows the overall frequencies, `class_unigram` those of the sample's class: what a model
    reaches that has learnt frequencies and nothing else. One count is added to every code.
    """
    counts = np.ones((classes, codebook_size))
    for label in range(classes):
        tokens = train[train_labels == label].ravel()
        counts[label] += np.bincount(tokens, minlength=codebook_size)
    overall = np.log(counts.sum(axis=0) / counts.sum())
    per_class = np.log(counts / counts.sum(axis=1, keepdims=True))
    flat = test.reshape(len(test), -1)
    return {
        "unigram": -overall[flat].mean(axis=1),
        "class_unigram": -per_class[test_labels[:, None], flat].mean(axis=1),
    }


@torch.no_grad()
def held_out_cross_entropy(
    model: MaskGIT, tokens: Tensor, labels: Tensor, *, seed: int, batch_size: int = 16
) -> dict[str, Any]:
    """Masked cross-entropy (nats) per mask ratio, for the true label, a wrong one and none.

    Args:
        model: computes where it lies.
        tokens: `int64 [N, grid, grid]`, `labels`: `int64 [N]`. The same masks serve all three labels,
            so their differences are paired.

    Returns:
        `per_ratio`: for each of `MASK_RATIOS` `true`, `wrong`, `null`, `top1`, `top5`; their means; and
        `per_sample`: `true`, `wrong`, `null` of each grid, means over the ratios, `float32 [N]`
        on the CPU.
    """
    shape, on = model.config, device_of(model)
    generator = torch.Generator().manual_seed(seed)
    flat, labels = tokens.flatten(1).long().to(on), labels.to(on)
    shift = torch.randint(1, shape.classes, labels.shape, generator=generator).to(on)
    choices = {
        "true": labels,
        "wrong": (labels + shift) % shape.classes,
        "null": torch.full_like(labels, shape.null_label),
    }
    per_ratio = {}
    per_sample = {name: torch.zeros(len(flat)) for name in choices}
    for ratio in MASK_RATIOS:
        noise = torch.rand(flat.shape, generator=generator)
        # A fixed number of hidden positions a sample, so that ratios are exact
        hidden_count = max(1, round(ratio * flat.shape[1]))
        mask = (noise.argsort(dim=1).argsort(dim=1) < hidden_count).to(on)
        row: dict[str, float] = {}
        for name, given in choices.items():
            losses, ranks = [], []
            for start in range(0, len(flat), batch_size):
                part = slice(start, start + batch_size)
                visible = flat[part].masked_fill(mask[part], shape.mask_id)
                with autocast(on):
                    logits = model.head(model.hidden(visible, given[part])[mask[part]])
                logits = logits.float()[:, : shape.codebook_size]
                target = flat[part][mask[part]]
                losses.append(F.cross_entropy(logits, target, reduction="none"))
                own = logits.gather(1, target[:, None])
                ranks.append((logits > own).sum(dim=1))
            of_samples = torch.cat(losses).view(len(flat), hidden_count).mean(dim=1).cpu()
            per_sample[name] += of_samples / len(MASK_RATIOS)
            row[name] = float(of_samples.mean())
            if name == "true":
                rank = torch.cat(ranks)
                row["top1"] = float((rank < 1).float().mean())
                row["top5"] = float((rank < 5).float().mean())
        per_ratio[f"{ratio:.1f}"] = row
    means = {
        key: float(np.mean([row[key] for row in per_ratio.values()]))
        for key in ("true", "wrong", "null", "top1", "top5")
    }
    return {"per_ratio": per_ratio, "per_sample": per_sample, **means}
