"""Masked-token cross-entropy: a pure function of features and tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

from metaldefect.kernels.fused_block import at_least_float32, matrix_product_dtype
from metaldefect.maskgit.soft_targets import SoftTargets

# Rows of logits per chunk: with 16,384 codes in float32 they stay in the last-level cache
CHUNK = 64


class LinearCrossEntropy(torch.autograd.Function):
    """(rows, weight, bias, targets) -> mean cross-entropy of the rows' logits, and plain statistics.

    Computes logits, softmax and gradient chunk by chunk in one pass, so that the largest tensors of a
    training step are never written out in float32.
    """

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        soft_weight: float,
        soft: SoftTargets | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        features, matrix, offset = rows.to(dtype), weight.to(dtype), bias.to(dtype)
        size = len(weight)
        gradient = features.new_empty(len(rows), size)
        sums = features.new_zeros(3, dtype=at_least_float32(dtype))
        hard_weight = 1.0 - smoothing - soft_weight
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            target = targets[part, None]
            logits = torch.addmm(offset, features[part], matrix.t()).to(sums.dtype)
            log_p = logits.log_softmax(dim=-1)
            own = log_p.gather(1, target)
            loss = -hard_weight * own.sum()
            if smoothing:
                loss -= smoothing / size * log_p.sum()
            if soft is not None:
                neighbours = soft.neighbours[targets[part]]
                shares = soft.shares[targets[part]].to(log_p.dtype)
                loss -= soft_weight * (log_p.gather(1, neighbours) * shares).sum()
            hits = (log_p > own).sum(dim=1) < 1
            sums += torch.stack([loss, -own.sum(), hits.sum().to(sums.dtype)])
            p = log_p.exp_()
            p.scatter_add_(1, target, own.new_full(own.shape, -hard_weight))
            if smoothing:
                p -= smoothing / size
            if soft is not None:
                p.scatter_add_(1, neighbours, -soft_weight * shares)
            torch.div(p, len(rows), out=gradient[part])
        ctx.save_for_backward(features, matrix, gradient)
        ctx.dtypes = rows.dtype, weight.dtype, bias.dtype
        loss, plain, accuracy = (sums / len(rows)).unbind()
        ctx.mark_non_differentiable(plain, accuracy)
        return loss, plain, accuracy

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, scale: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        features, matrix, gradient = ctx.saved_tensors
        row_dtype, weight_dtype, bias_dtype = ctx.dtypes
        d_rows = (gradient @ matrix).to(row_dtype) * scale
        d_weight = (gradient.t() @ features).to(weight_dtype) * scale
        d_bias = gradient.sum(dim=0, dtype=bias_dtype) * scale
        return d_rows, d_weight, d_bias, None, None, None, None, None


def linear_cross_entropy(
    rows: Tensor,
    head: nn.Linear,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    soft_weight: float = 0.0,
    soft: SoftTargets | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of `head(rows)`: (loss, cross-entropy without smoothing, accuracy), means over rows.

    The target distribution spreads `label_smoothing` evenly over all codes, gives `soft_weight` to the
    token's neighbours in `soft`, and the rest to the token itself.

    Args:
        rows: `float [N, d]`.
        head: maps rows to `[N, V]` logits.
        targets: `int64 [N]`.
    """
    if soft_weight and soft is None:
        raise ValueError(f"soft_weight = {soft_weight} needs soft targets")
    dtype = matrix_product_dtype(rows)
    if soft is not None:
        soft = SoftTargets(*(part.to(rows.device) for part in soft))
    with torch.autocast(rows.device.type, enabled=False):
        return LinearCrossEntropy.apply(
            rows,
            head.weight,
            head.bias,
            targets,
            label_smoothing,
            soft_weight if soft is not None else 0.0,
            soft if soft_weight else None,
            dtype,
        )


def masked_cross_entropy(
    hidden: Tensor,
    head: nn.Linear,
    tokens: Tensor,
    mask: Tensor,
    *,
    label_smoothing: float = 0.0,
    unmasked_weight: float = 0.0,
    soft_weight: float = 0.0,
    soft: SoftTargets | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on masked positions, plus `unmasked_weight` times that on visible ones.

    Computes logits only where the loss needs them: with 16,384 codes they are the largest tensor of the
    step.

    Args:
        hidden: final features, `float [B, T, d]`.
        head: maps features to logits over codes (and the mask id).
        tokens: true tokens, `int64 [B, T]`.
        mask: `bool [B, T]`, True where hidden.
        label_smoothing: share of the target spread over all codes; masked positions only.
        soft_weight: share of the target spread over the token's neighbours in `soft`; masked positions only.

    Returns:
        (loss, parts): `masked_ce` (of the token alone, without smoothing) and `masked_accuracy`.
    """
    rows, flat = hidden.flatten(0, 1), tokens.flatten()
    hidden_at = mask.flatten().nonzero().squeeze(1)
    loss, masked_ce, accuracy = linear_cross_entropy(
        rows.index_select(0, hidden_at),
        head,
        flat[hidden_at],
        label_smoothing=label_smoothing,
        soft_weight=soft_weight,
        soft=soft,
    )
    if unmasked_weight:
        visible_at = (~mask).flatten().nonzero().squeeze(1)
        if len(visible_at):
            visible, *_ = linear_cross_entropy(rows.index_select(0, visible_at), head, flat[visible_at])
            loss = loss + unmasked_weight * visible
    return loss, {"masked_ce": masked_ce, "masked_accuracy": accuracy}
