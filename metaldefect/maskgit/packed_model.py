"""MaskGIT's weights laid out for sampling: the same logits as `model.MaskGIT`, faster.

- Modulations depend only on the class, so they are computed once instead of at every step.
- Projections that read the same input are one product; weights are cast once.
- The last block computes queries and feed-forward only at the requested positions.
- In half precision everything between two products stays in it (except the final norm, the head and all
  sums, which use float32): mixing dtypes costs a tensor copy each time.
- float32 products go to oneDNN if PyTorch has it: on AMD's CPUs, the default MKL reaches 40 % of its speed.

Measured gain (`python -m benchmarks.kernels`, `maskgit_sampling_packed_gain`): not measured yet.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metaldefect.kernels.fused_block import inverse_rms, merge_heads, split_heads
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import Block, MaskGIT


def has_onednn_linear() -> bool:
    """Whether this PyTorch can send a float32 linear layer to oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T, using the faster library."""
    if x.dtype is torch.float32 and x.device.type == "cpu" and has_onednn_linear():
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return F.linear(x, weight)


class PackedBlock(NamedTuple):
    """A block's matrices in the compute dtype, and its norms."""

    norm1: Tensor
    norm2: Tensor
    qkv: Tensor  # [3 w, d]
    out: Tensor
    up: Tensor  # [2 hidden, d]: the gated half, then the linear one
    down: Tensor


class Modulations(NamedTuple):
    """Modulation of all norms and gates for a batch of labels."""

    labels: Tensor
    blocks: list[tuple[Tensor, ...]]  # coefficient1, shift1, gate1, coefficient2, shift2, gate2: [B, 1, d]
    last: tuple[Tensor, Tensor] | None  # shift and 1 + scale of the final norm
    condition: Tensor


class PackedMaskGIT:
    """A model for samplers, on the device of the given one.

    Copies all weights: later changes to the model have no effect here, and the model is not kept alive.
    """

    @torch.no_grad()
    def __init__(self, model: MaskGIT, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = copy.deepcopy(model).requires_grad_(False), dtype
        self.heads = model.config.heads
        layers = [layer for layer in self.model.transformer.layers if isinstance(layer, Block)]
        self.mixings = [layer.mixing for layer in layers]
        self.blocks = [self._packed(layer) for layer in layers]
        for layer in layers:
            del layer.attn, layer.ff  # their weights are packed above
        # Guidance multiplies the logits' rounding errors, and few positions are requested: float32
        self.head_weight = self.model.head.weight.float()
        self.head_bias = self.model.head.bias.float()
        self._modulations: Modulations | None = None

    @property
    def config(self) -> MaskGITConfig:
        """The model's shape."""
        return self.model.config

    def _packed(self, block: Block) -> PackedBlock:
        w = block.weights()
        matrices = (torch.cat([w.wq, w.wk, w.wv]), w.wo, torch.cat([w.w1, w.w3]), w.w2)
        return PackedBlock(w.norm1, w.norm2, *(matrix.to(self.dtype) for matrix in matrices))

    @torch.no_grad()
    def __call__(self, tokens: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits `float32 [B, P or grid^2, codebook_size + 1]`, as from `MaskGIT.forward`."""
        with torch.autocast(tokens.device.type, enabled=False):
            if positions is None:
                positions = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
            modulations = self.modulations(labels)
            x = self.model.embed(tokens, modulations.condition)
            register = self.model.reg_tokens.weight.expand(len(x), 1, -1)
            x = torch.cat([x, register], dim=1).to(self.dtype)
            for number, (block, mixing) in enumerate(zip(self.blocks, self.mixings, strict=True)):
                if mixing is not None:
                    x = mixing(x)
                wanted = positions if number == len(self.blocks) - 1 else None
                x = self._block(x, block, modulations.blocks[number], wanted)
            x = self.model.last_norm.norm_final(x.float())
            if modulations.last is not None:
                shift, scale = modulations.last
                x = torch.addcmul(shift, x, scale)
            return linear(x, self.head_weight) + self.head_bias

    def modulations(self, labels: Tensor) -> Modulations:
        """Modulations for a batch of labels; cached, since samplers need the same ones at each step."""
        kept = self._modulations
        if kept is not None and torch.equal(kept.labels, labels):
            return kept
        condition = self.model.cls_emb(labels)
        blocks = []
        for layer in self.model.transformer.layers:
            assert isinstance(layer, Block)
            shift1, scale1, gate1, shift2, scale2, gate2 = layer.modulation(condition).unsqueeze(2).unbind(1)
            coefficient1 = layer.ln1.weight * (1.0 + scale1)
            coefficient2 = layer.ln2.weight * (1.0 + scale2)
            parts = (coefficient1, shift1, gate1, coefficient2, shift2, gate2)
            blocks.append(tuple(part.to(self.dtype) for part in parts))
        last = None
        if self.model.last_norm.mlp is not None:
            shift, scale = self.model.last_norm.mlp(condition).unsqueeze(1).chunk(2, dim=-1)
            last = (shift, 1.0 + scale)
        self._modulations = Modulations(labels.clone(), blocks, last, condition)
        return self._modulations

    def _block(
        self, x: Tensor, block: PackedBlock, modulation: tuple[Tensor, ...], positions: Tensor | None
    ) -> Tensor:
        """A block's output at all positions, or only at `positions`."""
        coefficient1, shift1, gate1, coefficient2, shift2, gate2 = modulation
        batch, length, dim = x.shape
        width = block.out.shape[1]
        normed = torch.addcmul(shift1, x * self._inverse_rms(x), coefficient1)
        # Softmax's 1 / sqrt(head_dim) is folded into the queries' factor
        scale = (width // self.heads) ** -0.5
        if positions is None:
            qkv = linear(normed, block.qkv).view(batch, length, 3, width)
            factor = self._inverse_rms(qkv[:, :, :2])
            factor[:, :, 0] *= scale
            query, key, value = split_heads(qkv, factor, self.heads)
        else:
            index = positions.unsqueeze(-1).expand(-1, -1, dim)
            x = x.gather(1, index)
            q = linear(normed.gather(1, index), block.qkv[:width])
            k, v = linear(normed, block.qkv[width:]).chunk(2, dim=-1)
            query = self._heads(q * (self._inverse_rms(q) * scale))
            key, value = self._heads(k * self._inverse_rms(k)), self._heads(v)
        merged = merge_heads(attend(query, key, value), batch)
        x = torch.addcmul(x, gate1, linear(merged, block.out))
        normed = torch.addcmul(shift2, x * self._inverse_rms(x), coefficient2)
        gated, straight = linear(normed, block.up).chunk(2, dim=-1)
        return torch.addcmul(x, gate2, linear(F.silu(gated).mul_(straight), block.down))

    def _inverse_rms(self, x: Tensor) -> Tensor:
        return inverse_rms(x).to(self.dtype)

    def _heads(self, x: Tensor) -> Tensor:
        """`[B, T, w]` -> `[B * heads, T, head_dim]`."""
        batch, length, _ = x.shape
        return x.view(batch, length, self.heads, -1).transpose(1, 2).reshape(batch * self.heads, length, -1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of `[B * heads, T, head_dim]`, queries already divided by sqrt(head_dim).

    Uses batched products in half precision, else PyTorch's fused CPU kernel, which is slower in bfloat16 and
    faster in float32.
    """
    if query.dtype is torch.float32:
        return F.scaled_dot_product_attention(query[None], key[None], value[None], scale=1.0)[0]
    return torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(dim=-1), value)
