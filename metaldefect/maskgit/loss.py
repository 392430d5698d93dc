"""Masked-token cross-entropy: a pure function of features and tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_cross_entropy(
    hidden: Tensor,
    head: nn.Module,
    tokens: Tensor,
    mask: Tensor,
    *,
    label_smoothing: float = 0.0,
    unmasked_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on masked positions, plus `unmasked_weight` times that on visible ones.

    Logits are computed where the loss needs them and nowhere else: with 16,384 codes they are the
    largest tensor of the step.

    Args:
        hidden: final features, `float [B, T, d]`.
        head: maps features to logits over codes (and the mask id).
        tokens: true tokens, `int64 [B, T]`.
        mask: `bool [B, T]`, True where hidden.

    Returns:
        (loss, parts): `masked_ce` (without smoothing) and `masked_accuracy`.
    """
    logits = head(hidden[mask]).float()
    target = tokens[mask]
    loss = F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    with torch.no_grad():
        parts = {
            "masked_ce": F.cross_entropy(logits, target) if label_smoothing else loss.detach(),
            "masked_accuracy": (logits.argmax(dim=-1) == target).float().mean(),
        }
    if unmasked_weight:
        visible = F.cross_entropy(head(hidden[~mask]).float(), tokens[~mask])
        loss = loss + unmasked_weight * visible
    return loss, parts
