"""Vector quantisation with an L2-normalised codebook (LlamaGen's `VectorQuantizer`)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

USED_BUFFER = 65_536
ENTROPY_TEMPERATURE = 0.01


def on_sphere(vectors: Tensor, hue: int = 0) -> Tensor:
    """Vectors `[..., D]` with unit length; their last `hue` coordinates neither count nor change."""
    if not hue:
        return F.normalize(vectors, dim=-1)
    return torch.cat([F.normalize(vectors[..., :-hue], dim=-1), vectors[..., -hue:]], dim=-1)


def closeness(vectors: Tensor, entries: Tensor, hue: int = 0) -> Tensor:
    """Larger for nearer pairs of `on_sphere` vectors `[M, D]` and entries `[K, D]`: `float [M, K]`.

    The dot product, less what makes it fall with the squared distance also in the coordinates of hue.
    """
    products = vectors @ entries.t()
    return products - entries[:, -hue:].square().sum(dim=1) / 2 if hue else products


class Quantized(NamedTuple):
    """Result of quantising a feature map."""

    z: Tensor  # float [N, D, H, W], straight-through
    tokens: Tensor  # int64 [N, H, W]
    codebook_loss: Tensor
    commitment_loss: Tensor
    entropy_loss: Tensor
    vectors: Tensor  # float [N*H*W, D], the quantised vectors: `on_sphere`, detached


class VectorQuantizer(nn.Module):
    """Nearest entry of a normalised codebook, with a straight-through gradient.

    The state dict holds `embedding.weight` `[size, dim]` and `codebook_used` `[65536]`; upstream's
    checkpoints contain this buffer, so a strict load needs it.

    Args:
        size: number of entries.
        dim: their coordinates.
        hue: how many of these, the last ones, stay outside the normalisation.
    """

    codebook_used: Tensor

    def __init__(self, size: int, dim: int, hue: int = 0) -> None:
        super().__init__()
        self.hue = hue
        self.embedding = nn.Embedding(size, dim)
        self.embedding.weight.data.uniform_(-1.0 / size, 1.0 / size)
        self.embedding.weight.data = F.normalize(self.embedding.weight.data, dim=-1)
        self.register_buffer("codebook_used", torch.zeros(USED_BUFFER))

    @property
    def codebook(self) -> Tensor:
        """Normalised entries, `float [size, dim]`."""
        return self.on_sphere(self.embedding.weight.float())

    def on_sphere(self, vectors: Tensor) -> Tensor:
        """Vectors `float [..., dim]` as they are compared with the entries."""
        return on_sphere(vectors, self.hue)

    def nearest(self, z: Tensor) -> Tensor:
        """Index of the nearest entry for normalised vectors `float [M, dim]` -> `int64 [M]`.

        On the unit sphere the nearest entry has the largest dot product. Stays in float32 under autocast:
        bfloat16 would round away the differences between neighbouring entries.
        """
        with torch.autocast(z.device.type, enabled=False):
            return torch.argmax(closeness(z.float(), self.codebook, self.hue), dim=-1)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise `float [N, D, H, W]`; the losses are unweighted means over all elements."""
        n, d, h, w = z.shape
        flat = self.on_sphere(z.float().permute(0, 2, 3, 1).reshape(-1, d))
        tokens = self.nearest(flat.detach())
        entries = self.on_sphere(self.embedding(tokens).float())
        codebook_loss = (entries - flat.detach()).pow(2).mean()
        commitment_loss = (entries.detach() - flat).pow(2).mean()
        quantized = flat + (entries - flat).detach()
        return Quantized(
            quantized.view(n, h, w, d).permute(0, 3, 1, 2),
            tokens.view(n, h, w),
            codebook_loss,
            commitment_loss,
            self.entropy_loss(flat) if self.training else flat.new_zeros(()),
            flat.detach(),
        )

    def entropy_loss(self, z: Tensor) -> Tensor:
        """Mean entropy of each vector's assignment minus the entropy of the mean assignment.

        Low if each vector is certain of its entry and all entries are in use. Assignments are
        softmax(-distance / 0.01) over the codebook; `z` is normalised, `float [M, dim]`.
        """
        with torch.autocast(z.device.type, enabled=False):
            distance = 2.0 - 2.0 * closeness(z, self.codebook, self.hue)
        log_p = F.log_softmax(-distance / ENTROPY_TEMPERATURE, dim=-1)
        p = log_p.exp()
        sample_entropy = -(p * log_p).sum(dim=-1).mean()
        mean = p.mean(dim=0)
        mean_entropy = -(mean * (mean + 1e-5).log()).sum()
        return sample_entropy - mean_entropy

    def lookup(self, tokens: Tensor) -> Tensor:
        """Entries for `int64 [N, H, W]` as `float [N, D, H, W]`; an index out of range raises an error."""
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.embedding.num_embeddings:
            raise ValueError(
                f"tokens lie in [{int(tokens.min())}, {int(tokens.max())}], "
                f"the codebook has {self.embedding.num_embeddings} entries"
            )
        return self.on_sphere(self.embedding(tokens).float()).permute(0, 3, 1, 2)
