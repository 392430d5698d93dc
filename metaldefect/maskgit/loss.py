"""Masked-token cross-entropy: a pure function of features and tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaldefect.maskgit.soft_targets import SoftTargets


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

    Raises:
        ValueError: `soft_weight` is given without `soft`.
    """
    if soft_weight and soft is None:
        raise ValueError(f"soft_weight = {soft_weight} needs soft targets")
    logits = head(rows)
    log_p = logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    own = log_p.gather(1, targets[:, None]).squeeze(1)
    expected = (1.0 - label_smoothing - soft_weight) * own
    if label_smoothing:
        expected = expected + label_smoothing * log_p.mean(dim=1)
    if soft is not None and soft_weight:
        neighbours, shares = (part.to(rows.device)[targets] for part in soft)
        expected = expected + soft_weight * (log_p.gather(1, neighbours) * shares).sum(dim=1)
    with torch.no_grad():
        accuracy = (own >= log_p.amax(dim=1)).to(own.dtype).mean()
    return -expected.mean(), -own.detach().mean(), accuracy


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
