"""How well MaskGIT predicts held-out tokens, and how much the class label helps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.hardware import autocast, device_of
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.token_data import TokenGrids
from metaldefect.metrics.bootstrap import bootstrap_mean
from metaldefect.metrics.reconstruction import codebook_use
from metaldefect.training.snapshot_files import load_snapshot

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

    `unigram` uses the overall frequencies, `class_unigram` those of the sample's class: what a model
    reaches that has learnt only frequencies. Adds one count to every code.
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

    A model of a single class has no wrong label, so `wrong` is missing from all results.

    Args:
        model: computes on its own device.
        tokens: `int64 [N, grid, grid]`, `labels`: `int64 [N]`. All three labels use the same masks, so their
            differences are paired.

    Returns:
        `per_ratio`: `true`, `wrong`, `null`, `top1`, `top5` for each of `MASK_RATIOS`; the means of each; and
        `per_sample`: `true`, `wrong`, `null` of each grid, averaged over the ratios, `float32 [N]`
        on the CPU; `per_sample_at_90`, the same with nine tenths hidden.
    """
    shape, on = model.config, device_of(model)
    generator = torch.Generator().manual_seed(seed)
    flat, labels = tokens.flatten(1).long().to(on), labels.to(on)
    choices = {"true": labels}
    if shape.classes > 1:
        shift = torch.randint(1, shape.classes, labels.shape, generator=generator).to(on)
        choices["wrong"] = (labels + shift) % shape.classes
    choices["null"] = torch.full_like(labels, shape.null_label)
    per_ratio = {}
    per_sample = {name: torch.zeros(len(flat)) for name in choices}
    at_90 = {}
    for ratio in MASK_RATIOS:
        noise = torch.rand(flat.shape, generator=generator)
        # Hide a fixed number of positions per sample, so that ratios are exact
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
            if ratio == 0.9:
                at_90[name] = of_samples
            if name == "true":
                rank = torch.cat(ranks)
                row["top1"] = float((rank < 1).float().mean())
                row["top5"] = float((rank < 5).float().mean())
        per_ratio[f"{ratio:.1f}"] = row
    means = {
        key: float(np.mean([row[key] for row in per_ratio.values()])) for key in (*choices, "top1", "top5")
    }
    return {"per_ratio": per_ratio, "per_sample": per_sample, "per_sample_at_90": at_90, **means}


def measure(model: MaskGIT, train: TokenGrids, held_out: TokenGrids, seed: int) -> dict[str, Any]:
    """Cross-entropies of held-out tokens, with intervals that resample near-duplicate groups.

    Args:
        model: in eval mode.
        train: training tokens; their frequencies give the unigram baselines.
        held_out: tokens of validation images to choose by the result, of test images to publish it.
        seed: of the masks.
    """
    unigrams = unigram_losses(
        train.tokens, train.labels, held_out.tokens, held_out.labels,
        model.config.codebook_size, model.config.classes,
    )  # fmt: skip
    found = held_out_cross_entropy(model, *held_out.tensors(), seed=seed)
    losses = {name: values.double().numpy() for name, values in found["per_sample"].items()}
    values = {f"ce_{name}": loss for name, loss in losses.items()}
    if "wrong" in losses:
        at_90 = {name: loss.double().numpy() for name, loss in found["per_sample_at_90"].items()}
        values["ce_wrong_minus_true"] = losses["wrong"] - losses["true"]
        values["ce_wrong_minus_true_at_90"] = at_90["wrong"] - at_90["true"]
    values |= {
        "ce_null_minus_true": losses["null"] - losses["true"],
        "ce_below_class_unigram": unigrams["class_unigram"] - losses["true"],
        **unigrams,
    }
    groups = held_out.table["group"].tolist()
    estimates = {name: bootstrap_mean(value, groups) for name, value in values.items()}
    return {
        "masked_ce": estimates["ce_true"]["mean"],
        **{name: estimate["mean"] for name, estimate in estimates.items()},
        "top1": found["top1"],
        "top5": found["top5"],
        "per_ratio": found["per_ratio"],
        "left_out": {} if "wrong" in losses else {"ce_wrong": "there is only one class"},
        "held_out_images": len(held_out.tokens),
        "interval_95": {name: [e["low"], e["high"]] for name, e in estimates.items()},
    }


def token_statistics(train: TokenGrids, vocabulary: int) -> dict[str, Any]:
    """How training images use the vocabulary, and the entropy of token frequencies per class (nats)."""
    labels = train.table["label"].to_numpy(str)
    return {
        "train": codebook_use(train.tokens, vocabulary),
        "entropy_per_class": {
            str(label): float(np.log(codebook_use(train.tokens[labels == label], vocabulary)["perplexity"]))
            for label in np.unique(labels)
        },
    }


def learning_curve(
    model: MaskGIT, files: Mapping[int, Path], held_out: TokenGrids, seed: int, batch_size: int
) -> list[dict[str, float]]:
    """Cross-entropies of validation tokens under each snapshot, one row per snapshot.

    Rows hold `step`, `images_seen`, `ce_true`, `ce_wrong`, `ce_null`, `top1`, `top5` and
    `ce_at_<mask ratio>`. The model ends with the last snapshot's weights.

    Args:
        model: has the snapshots' shape.
        files: step -> snapshot.
        held_out: validation tokens.
        seed: of the masks, which are the same for each snapshot.
        batch_size: of the training; converts steps to images seen.
    """
    rows = []
    tokens, labels = held_out.tensors()
    for step, path in files.items():
        load_snapshot(model, path)
        found = held_out_cross_entropy(model.eval(), tokens, labels, seed=seed)
        row = {"step": float(step), "images_seen": float(step * batch_size)}
        row |= {f"ce_{name}": float(found[name]) for name in found["per_sample"]}
        row |= {name: float(found[name]) for name in ("top1", "top5")}
        row |= {f"ce_at_{ratio}": float(values["true"]) for ratio, values in found["per_ratio"].items()}
        rows.append(row)
    return rows
