"""A transformer block with a hand-written forward and backward pass, for training on a CPU.

The same mathematics as `model.Block`, arranged so that little but matrix products remains: weights are cast
once per step, projections that read the same input are one product, each tensor is copied between float32
and the compute dtype at most once, and attention is three batched products (PyTorch's fused CPU kernel takes
2.5 times as long in bfloat16). The residual stream and all sums stay in float32.

Measured gain (`python -m benchmarks.kernels`, `maskgit_training_fused_gain`): not measured yet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

EPS = 1e-5


class BlockWeights(NamedTuple):
    """A block's parameters, in the order in which `FusedBlock` takes them and returns gradients."""

    norm1: Tensor
    norm2: Tensor
    wq: Tensor
    wk: Tensor
    wv: Tensor
    wo: Tensor
    w1: Tensor
    w2: Tensor
    w3: Tensor


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension (kept)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=at_least_float32(x.dtype))
    return norm.square_().div_(x.shape[-1]).add_(EPS).rsqrt_()


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype for sums: float32 for half precision, else unchanged."""
    return torch.promote_types(dtype, torch.float32)


def modulated_norm_gradients(
    gradient: Tensor, x: Tensor, inverse: Tensor, coefficient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of y = x * inverse_rms(x) * coefficient + shift.

    Args:
        gradient: of y, `[B, T, d]`.
        x: `[B, T, d]`, `inverse`: `[B, T, 1]`.
        coefficient: `[B, 1, d]`.

    Returns:
        Gradients of x `[B, T, d]`, of the coefficient `[B, d]` and of the shift `[B, d]`.
    """
    normalised = x * inverse
    per_element = gradient * normalised
    mean = per_element @ coefficient.transpose(1, 2) / x.shape[-1]
    inner = torch.addcmul(gradient * coefficient, normalised, mean, value=-1.0)
    return inner.mul_(inverse), per_element.sum(dim=1), gradient.sum(dim=1)


class FusedBlock(torch.autograd.Function):
    """(x, modulation, weights) -> x after attention and feed-forward."""

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(
        ctx: Any,
        x: Tensor,
        modulation: Tensor,
        heads: int,
        dropout: float,
        dtype: torch.dtype,
        *parameters: Tensor,
    ) -> Tensor:
        weights = BlockWeights(*parameters)
        batch, length, _ = x.shape
        width = weights.wq.shape[0]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unsqueeze(2).unbind(1)
        qkv_weight = torch.cat([weights.wq, weights.wk, weights.wv]).to(dtype)
        up_weight = torch.cat([weights.w1, weights.w3]).to(dtype)
        wo, w2 = weights.wo.to(dtype), weights.w2.to(dtype)

        inverse1 = inverse_rms(x)
        coefficient1 = weights.norm1 * (1.0 + scale1)
        attended = torch.addcmul(shift1, x * inverse1, coefficient1).to(dtype)
        qkv = F.linear(attended, qkv_weight).view(batch, length, 3, width)
        # Softmax's 1 / sqrt(head_dim) is folded into the queries' factor
        qk_inverse = inverse_rms(qkv[:, :, :2])
        qk_scale = qk_inverse.new_tensor([(width // heads) ** -0.5, 1.0]).view(1, 1, 2, 1)
        query, key, value = split_heads(qkv, qk_inverse * qk_scale, heads)
        probabilities = torch.bmm(query, key.transpose(1, 2)).softmax(dim=-1)
        merged = merge_heads(torch.bmm(probabilities, value), batch)
        attention = F.linear(merged, wo)
        keep1 = dropout_mask(attention, dropout)
        middle = torch.addcmul(x, gate1, attention if keep1 is None else attention * keep1)

        inverse2 = inverse_rms(middle)
        coefficient2 = weights.norm2 * (1.0 + scale2)
        fed = torch.addcmul(shift2, middle * inverse2, coefficient2).to(dtype)
        up = F.linear(fed, up_weight)
        gated, linear = up.chunk(2, dim=-1)
        forward = F.linear(F.silu(gated) * linear, w2)
        keep2 = dropout_mask(forward, dropout)
        result = torch.addcmul(middle, gate2, forward if keep2 is None else forward * keep2)

        ctx.save_for_backward(
            x, modulation, weights.norm1, weights.norm2, inverse1, attended, qkv, qk_inverse, query, key,
            value, probabilities, merged, attention, keep1, middle, inverse2, fed, up, forward, keep2,
            qkv_weight, wo, up_weight, w2,
        )  # fmt: skip
        ctx.heads = heads
        return result

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (
            x, modulation, norm1, norm2, inverse1, attended, qkv, qk_inverse, query, key,
            value, probabilities, merged, attention, keep1, middle, inverse2, fed, up, forward, keep2,
            qkv_weight, wo, up_weight, w2,
        ) = ctx.saved_tensors  # fmt: skip
        batch, length, _ = x.shape
        dtype = qkv_weight.dtype
        width = wo.shape[1]
        _, scale1, gate1, _, scale2, gate2 = modulation.unsqueeze(2).unbind(1)

        d_gate2, d_forward = gate_gradients(gradient, gate2, forward, keep2, dtype)
        gated, linear = up.chunk(2, dim=-1)
        activated = F.silu(gated)
        d_w2 = weight_gradient(d_forward, activated * linear, x.dtype)
        d_product = torch.matmul(d_forward, w2)
        d_up = torch.empty_like(up)
        d_up[..., : up.shape[-1] // 2] = torch.ops.aten.silu_backward(d_product * linear, gated)
        torch.mul(d_product, activated, out=d_up[..., up.shape[-1] // 2 :])
        d_up_weight = weight_gradient(d_up, fed, x.dtype)
        d_fed = torch.matmul(d_up, up_weight).to(x.dtype)
        coefficient2 = norm2 * (1.0 + scale2)
        d_middle, d_coefficient2, d_shift2 = modulated_norm_gradients(d_fed, middle, inverse2, coefficient2)
        d_middle += gradient

        d_gate1, d_attention = gate_gradients(d_middle, gate1, attention, keep1, dtype)
        d_wo = weight_gradient(d_attention, merged, x.dtype)
        d_merged = torch.matmul(d_attention, wo).view(batch, length, ctx.heads, -1)
        d_heads = d_merged.transpose(1, 2).reshape(query.shape)
        d_scores = torch._softmax_backward_data(
            torch.bmm(d_heads, value.transpose(1, 2)), probabilities, -1, dtype
        )
        d_qkv = torch.empty_like(qkv)
        for i, part in enumerate(
            (
                torch.bmm(d_scores, key),
                torch.bmm(d_scores.transpose(1, 2), query),
                torch.bmm(probabilities.transpose(1, 2), d_heads),
            )
        ):
            d_qkv[:, :, i] = merge_heads(part, batch)
        # Backward of the norm of queries and keys; queries carry the 1 / sqrt(head_dim)
        qk_scale = qk_inverse.new_tensor([(width // ctx.heads) ** -0.5, 1.0]).view(1, 1, 2, 1)
        d_normalised = d_qkv[:, :, :2] * qk_scale
        normalised = qkv[:, :, :2] * qk_inverse
        mean = (d_normalised * normalised).mean(dim=-1, keepdim=True)
        inner = torch.addcmul(d_normalised, normalised, mean, value=-1.0)
        torch.mul(inner, qk_inverse, out=d_qkv[:, :, :2])
        d_qkv = d_qkv.view(batch, length, 3 * width)
        d_qkv_weight = weight_gradient(d_qkv, attended, x.dtype)
        d_attended = torch.matmul(d_qkv, qkv_weight).to(x.dtype)
        coefficient1 = norm1 * (1.0 + scale1)
        d_x, d_coefficient1, d_shift1 = modulated_norm_gradients(d_attended, x, inverse1, coefficient1)
        d_x += d_middle

        d_modulation = torch.stack(
            [d_shift1, d_coefficient1 * norm1, d_gate1, d_shift2, d_coefficient2 * norm2, d_gate2], dim=1
        )
        d_norm1 = (d_coefficient1 * (1.0 + scale1.squeeze(1))).sum(dim=0)
        d_norm2 = (d_coefficient2 * (1.0 + scale2.squeeze(1))).sum(dim=0)
        d_wq, d_wk, d_wv = d_qkv_weight.split(width)
        d_w1, d_w3 = d_up_weight.chunk(2)
        return (
            d_x,
            d_modulation,
            None,
            None,
            None,
            d_norm1,
            d_norm2,
            d_wq,
            d_wk,
            d_wv,
            d_wo,
            d_w1,
            d_w2,
            d_w3,
        )


def split_heads(qkv: Tensor, qk_factor: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, T, 3, w]` -> scaled queries, scaled keys and values, each `[B * heads, T, w / heads]`, packed."""
    batch, length, _, width = qkv.shape
    parts = qkv.new_empty(3, batch, heads, length, width // heads)
    by_token = parts.permute(1, 3, 0, 2, 4)
    source = qkv.view(batch, length, 3, heads, -1)
    torch.mul(source[:, :, :2], qk_factor.unsqueeze(-1), out=by_token[:, :, :2])
    by_token[:, :, 2] = source[:, :, 2]
    query, key, value = parts.flatten(1, 2).unbind(0)
    return query, key, value


def merge_heads(x: Tensor, batch: int) -> Tensor:
    """`[B * heads, T, head_dim]` -> `[B, T, heads * head_dim]`."""
    _, length, head_dim = x.shape
    return x.view(batch, -1, length, head_dim).transpose(1, 2).reshape(batch, length, -1)


def dropout_mask(like: Tensor, dropout: float) -> Tensor | None:
    """0 with probability `dropout`, else 1 / (1 - dropout); None without dropout."""
    if not dropout:
        return None
    return torch.empty_like(like).bernoulli_(1.0 - dropout).div_(1.0 - dropout)


def gate_gradients(
    gradient: Tensor, gate: Tensor, branch: Tensor, keep: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Backward of x + gate * keep * branch: gradients of the gate `[B, d]` and of the branch."""
    if keep is not None:
        gradient = gradient * keep
    return (gradient * branch).sum(dim=1), (gradient * gate).to(dtype)


def weight_gradient(output_gradient: Tensor, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient `[out, in]` of a linear layer's weight, over all batch dimensions, as `dtype`."""
    return (output_gradient.flatten(0, 1).t() @ inputs.flatten(0, 1)).to(dtype)


def matrix_product_dtype(x: Tensor) -> torch.dtype:
    """Dtype of matrix products: autocast's if it is enabled, else the input's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def fused_block(x: Tensor, modulation: Tensor, weights: BlockWeights, heads: int, dropout: float) -> Tensor:
    """Compute a block's output `[B, T, d]`.

    Args:
        x: `float32` (or float64) `[B, T, d]`.
        modulation: `[B, 6, d]`: shift, scale and gate of attention, then of feed-forward.
        weights: the block's parameters.
        heads: attention heads.
        dropout: applied to both branches, before their gates.
    """
    dtype = matrix_product_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return FusedBlock.apply(x, modulation.to(x.dtype), heads, dropout, dtype, *weights)
