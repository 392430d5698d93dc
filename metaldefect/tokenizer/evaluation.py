"""How well a tokenizer reconstructs held-out images: before, after and during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from metaldefect.backbones import pooled_features
from metaldefect.hardware import autocast, device
from metaldefect.images import U8, from_tanh_range, to_tanh_range, to_u8
from metaldefect.metrics.blocks import block_ratio_interval
from metaldefect.metrics.bootstrap import bootstrap_mean, half_sample_interval
from metaldefect.metrics.generation import kid
from metaldefect.metrics.reconstruction import codebook_use, edge_iou, psnr, ssim
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.grain import Grain, add_grain
from metaldefect.synthesis.residual import codes_and_levels
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.perceptual import ALTERNATIVE, metric_name, perceptual_loss
from metaldefect.training.snapshot_files import load_snapshot

History = list[dict[str, float]]
Features = NDArray[np.float32]
# KID needs two images on each side, and its interval draws half of the scenes
FEWEST_FOR_RKID = 4


class Distance(NamedTuple):
    """A perceptual distance and the name of the metric it is published as.

    `key` is `lpips` only for real LPIPS: the substitute's values have their own name.
    """

    key: str
    network: nn.Module

    @classmethod
    def named(cls, name: str) -> Distance:
        """The distance called `name`, or the substitute if its weights are unavailable."""
        network, made = perceptual_loss(name)
        return cls(metric_name(made), network)

    def left_out(self, wanted: str) -> dict[str, str]:
        """The reason why `lpips` is missing although the distance `wanted` was requested; else empty."""
        if self.key == "lpips" or wanted == ALTERNATIVE:
            return {}
        return {"lpips": f"no weights of its backbone {wanted!r}: {self.key} stands in"}


class Reconstruction(NamedTuple):
    """Images through the tokenizer."""

    images: U8  # [N, H, W], or in colour [N, H, W, 3]
    tokens: NDArray[np.int64]  # [N, h, w]
    scores: pd.DataFrame  # one row of metrics per image


def reconstruct(model: VQModel, images: U8, distance: Distance, batch_size: int = 8) -> Reconstruction:
    """Encode, decode and score images; the model ends in eval mode on `device()`.

    Args:
        model: the tokenizer.
        images: `uint8 [N, H, W]`, or `[N, H, W, 3]` for a model of colours.
        distance: the perceptual distance.
        batch_size: images at a time.
    """
    on = device()
    model.eval().to(on)
    network = distance.network.to(on)
    found, tokens, rows = [], [], []
    for start in range(0, len(images), batch_size):
        originals = images[start : start + batch_size]
        batch = to_tanh_range(originals).to(on)
        with torch.no_grad(), autocast(on):
            codes = model.encode(batch)
            decoded = model.decode(codes, model.field(batch))
        with torch.no_grad():
            distances = network(decoded.float().clamp(-1, 1), batch.contiguous()).tolist()
        part = from_tanh_range(decoded, model.config.image_channels)
        found.append(part)
        tokens.append(codes.cpu().numpy())
        for image, reference, value in zip(part, originals, distances, strict=True):
            rows.append(image_scores(image, reference) | {distance.key: value})
    return Reconstruction(np.concatenate(found), np.concatenate(tokens), pd.DataFrame(rows))


def image_scores(image: U8, reference: U8) -> dict[str, float]:
    """Metrics of one reconstruction that need no network."""
    return {
        "ssim": ssim(image, reference),
        "psnr": psnr(image, reference),
        "mse": float(np.mean((image.astype(np.float64) - reference) ** 2)),
        "edge_iou": edge_iou(image, reference),
        "edge_iou_1px": edge_iou(image, reference, 1),
    }


def summarise(
    reconstruction: Reconstruction, images: U8, table: pd.DataFrame, codebook_size: int
) -> dict[str, Any]:
    """Means with intervals by scene, rKID, block ratio and codebook use.

    rKID is left out where `why_no_rkid` gives a reason.
    """
    groups = table["scene"].tolist()
    cell = images.shape[1] // reconstruction.tokens.shape[1]
    scores = reconstruction.scores
    found = {
        **{str(name): bootstrap_mean(scores[name], groups) for name in scores},
        "block_ratio": block_ratio_interval(reconstruction.images, cell, groups),
        "codebook": codebook_use(reconstruction.tokens, codebook_size),
    }
    if not why_no_rkid(groups):
        found["rkid"] = rkid(pooled_features(images), pooled_features(reconstruction.images), groups)
    return found


def why_no_rkid(groups: Sequence[object]) -> dict[str, str]:
    """`rkid` and the reason why so few scenes give none; empty if they are enough."""
    if (count := len(set(groups))) >= FEWEST_FOR_RKID:
        return {}
    return {"rkid": f"{count} test scenes, {FEWEST_FOR_RKID} are needed"}


def rkid(real: Features, fake: Features, groups: Sequence[object]) -> dict[str, float]:
    """KID between images and their reconstructions with its interval; features `float32 [N, D]`."""
    return half_sample_interval(lambda chosen: kid(real[chosen], fake[chosen]), groups)


def per_class(scores: pd.DataFrame, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean scores of each class."""
    means = scores.groupby(np.asarray(labels)).mean()
    return {
        str(label): {str(name): float(value) for name, value in row.items()}
        for label, row in means.to_dict("index").items()
    }


def constant_image_scores(images: U8) -> dict[str, float]:
    """Mean SSIM and MSE of each image's own mean level: the baseline that a reconstruction has to beat."""
    flat = np.broadcast_to(np.rint(images.mean(axis=(1, 2), keepdims=True)).astype(np.uint8), images.shape)
    rows = [image_scores(constant, image) for constant, image in zip(flat, images, strict=True)]
    return {name: float(np.mean([row[name] for row in rows])) for name in ("ssim", "mse")}


def rkid_with_grain(model: VQModel, grain: Grain, images: U8, groups: list[object]) -> dict[str, float]:
    """rKID of reconstructions with added grain: the best that generated images can reach."""
    codes, levels = codes_and_levels(model, images)
    generators = [image_generator(0, "grain", number) for number in range(len(images))]
    noise = grain.draw(codes, images.shape[1], generators)
    return rkid(pooled_features(images), pooled_features(to_u8(add_grain(levels, noise))), groups)


def gains(before: pd.DataFrame, after: pd.DataFrame, groups: list[object]) -> dict[str, dict[str, float]]:
    """Per-image change through training: the difference with its interval, and relative to before.

    Both score tables cover the same images, so the interval of the paired difference shows whether training
    helped.
    """
    found = {}
    for name in before:
        difference = bootstrap_mean(after[name] - before[name], groups)
        found[str(name)] = difference | {"relative": difference["mean"] / float(before[name].mean())}
    return found


def learning_curve(
    model: VQModel, files: Mapping[int, Path], images: U8, distance: Distance, batch_size: int
) -> History:
    """Mean scores of these images under each snapshot, one row per snapshot.

    Args:
        model: has the snapshots' shape; ends with the last snapshot's weights.
        files: step -> snapshot.
        images: validation images, as in `reconstruct`.
        distance: as in `reconstruct`.
        batch_size: of the training; converts steps to images seen.
    """
    rows = []
    for step, path in files.items():
        load_snapshot(model, path)
        scores = reconstruct(model, images, distance).scores
        rows.append(
            {"images_seen": float(step * batch_size)}
            | {str(name): float(scores[name].mean()) for name in scores}
        )
    return rows
