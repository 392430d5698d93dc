"""Halton-MaskGIT's formulation of MaskGIT on our model's parameters: the baseline for our speed-ups.

It computes logits at all positions, applies dropout inside attention, computes one class modulation per
layer and call, casts weights by autocast at each use, draws for every position at every step, and loops
over samples in Python.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaldefect.maskgit.model import Block, MaskGIT
from metaldefect.maskgit.schedule import halton_order


def rms_norm(x: Tensor) -> Tensor:
    """RMS normalisation without a weight, in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).type_as(x)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def attention(layer: Block, x: Tensor, dropout: float) -> Tensor:
    b, t, _ = x.shape
    a = layer.attn
    q, k, v = a.wq(x), a.wk(x), a.wv(x)
    q, k = rms_norm(q), rms_norm(k)
    q, k, v = (y.view(b, t, a.heads, a.head_dim).transpose(1, 2) for y in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    return F.dropout(a.wo(y.transpose(1, 2).contiguous().view(b, t, -1)), dropout)


def plain_logits(model: MaskGIT, tokens: Tensor, labels: Tensor, dropout: float = 0.0) -> Tensor:
    """Logits of all positions, `[B, grid^2, codebook_size + 1]`."""
    x = F.dropout(model.tok_emb(tokens) + model.pos_emb.weight, dropout)
    x = torch.cat([x, model.reg_tokens.weight.expand(len(x), 1, -1)], dim=1)
    condition = model.cls_emb(labels)
    for layer in model.transformer.layers:
        assert isinstance(layer, Block)
        assert layer.mlp is not None
        shift1, scale1, gate1, shift2, scale2, gate2 = layer.mlp(condition).chunk(6, dim=-1)
        normed = modulate(rms_norm(x) * layer.ln1.weight, shift1, scale1)
        x = x + gate1.unsqueeze(1) * attention(layer, normed, dropout)
        normed = modulate(rms_norm(x) * layer.ln2.weight, shift2, scale2)
        fed = layer.ff.w2(F.silu(layer.ff.w1(normed)) * layer.ff.w3(normed))
        x = x + gate2.unsqueeze(1) * F.dropout(fed, dropout)
    mlp = model.last_norm.mlp
    assert isinstance(mlp, nn.Sequential)
    shift, scale = mlp(condition).chunk(2, dim=-1)
    return model.head(modulate(model.last_norm.norm_final(x[:, :-1]), shift, scale))


@torch.no_grad()
def plain_halton(
    model: MaskGIT, labels: Tensor, steps: int, guidance: float, uniforms: Tensor | None
) -> Tensor:
    """Sample in Halton order without rolling: tokens `int64 [B, grid^2]`.

    Draws with `torch.distributions.Categorical` as upstream does. If `uniforms` `[B, grid^2]` are given, it
    inverts the cumulative distribution at each position's number instead.
    """
    shape = model.config
    size = shape.grid**2
    order = torch.tensor(halton_order(shape.grid))
    tokens = torch.full((len(labels), size), shape.mask_id)
    null = torch.full_like(labels, shape.null_label)
    previous = 0
    for step in range(steps):
        ratio = math.acos((step + 1) / steps) / (math.pi / 2)
        until = max(step + 1, int(size * (1 - ratio)))
        both = plain_logits(model, torch.cat([tokens, tokens]), torch.cat([labels, null]))
        conditional, unconditional = both.float().chunk(2)
        logits = (1 + guidance) * conditional - guidance * unconditional
        p = torch.softmax(logits[..., : shape.codebook_size], dim=-1)
        if uniforms is None:
            drawn = torch.distributions.Categorical(probs=p).sample()
        else:
            cumulative = p.double().cumsum(-1)
            drawn = (cumulative <= uniforms.double().unsqueeze(-1) * cumulative[..., -1:]).sum(-1)
        for i in range(len(labels)):
            positions = order[previous:until]
            tokens[i, positions] = drawn[i, positions]
        previous = until
    return tokens
