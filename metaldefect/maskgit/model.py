"""The bidirectional transformer, with Halton-MaskGIT's module names so that its state dicts load.

Source of the shapes: github.com/valeoai/Halton-MaskGIT, Network/transformer.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaldefect.maskgit.config import MaskGITConfig

# Of the blocks' RMS norms
EPS = 1e-5


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive norm: `x [B, T, d]`, `shift` and `scale` `[B, d]`."""
    return x * (1.0 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Attention(nn.Module):
    """Multi-head self-attention whose queries and keys are RMS-normalised before the split into heads."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        width = config.heads * config.head_dim
        self.wq = nn.Linear(config.dim, width, bias=False)
        self.wk = nn.Linear(config.dim, width, bias=False)
        self.wv = nn.Linear(config.dim, width, bias=False)
        self.wo = nn.Linear(width, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.wq(x), self.wk(x), self.wv(x)
        q, k = (F.rms_norm(y, y.shape[-1:], eps=EPS).to(v.dtype) for y in (q, k))
        q, k, v = (y.view(b, t, self.heads, self.head_dim).transpose(1, 2) for y in (q, k, v))
        # No dropout here: it would disable the fused kernel
        y = F.scaled_dot_product_attention(q, k, v)
        return self.wo(y.transpose(1, 2).reshape(b, t, self.heads * self.head_dim))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden, bias=False)
        self.w2 = nn.Linear(config.hidden, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Mixing(nn.Module):
    """Adds a depthwise convolution of the grid to its tokens, zero at the start; skips the register."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.weight = nn.Parameter(torch.zeros(config.dim, 1, config.mixing, config.mixing))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, grid^2 + 1, d]` to the same shape and dtype."""
        batch, _, dim = x.shape
        image = x[:, :-1].transpose(1, 2).reshape(batch, dim, self.grid, self.grid)
        # Under autocast the casts would cost more than the convolution
        with torch.autocast(x.device.type, enabled=False):
            mixed = F.conv2d(image, self.weight.to(x.dtype), padding="same", groups=dim)
        return x + F.pad(mixed.flatten(2).transpose(1, 2), (0, 0, 0, 1))


class Block(nn.Module):
    """Attention and feed-forward, each modulated and gated by the class."""

    # The modulation without a class is the identity: shift 0, scale 0, gate 1, twice
    identity: Tensor

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        if config.conditioning == "adaln":
            self.mlp: nn.Sequential | None = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        else:
            self.mlp = None
            identity = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])[:, None].repeat(1, config.dim)
            self.register_buffer("identity", identity, persistent=False)
        self.ln1 = nn.RMSNorm(config.dim, eps=EPS)
        self.ln2 = nn.RMSNorm(config.dim, eps=EPS)
        self.attn = Attention(config)
        self.ff = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        self.mixing = Mixing(config) if config.mixing else None

    def modulation(self, condition: Tensor) -> Tensor:
        """Shift, scale and gate of attention, then of feed-forward, `[B, 6, d]`, for conditions `[B, d]`."""
        if self.mlp is None:
            return self.identity.expand(len(condition), -1, -1)
        return self.mlp(condition).unflatten(-1, (6, -1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).unbind(1)
        if self.mixing is not None:
            x = self.mixing(x)
        x = x + gate1.unsqueeze(1) * self.dropout(self.attn(modulate(self.ln1(x), shift1, scale1)))
        return x + gate2.unsqueeze(1) * self.dropout(self.ff(modulate(self.ln2(x), shift2, scale2)))


class Transformer(nn.Module):
    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, condition)
        return x


class FinalNorm(nn.Module):
    """Layer norm, modulated by the class if the blocks are."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm_final = nn.LayerNorm(dim)
        self.mlp: nn.Sequential | None = None
        if config.conditioning == "adaln":
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.norm_final(x)
        if self.mlp is None:
            return x
        shift, scale = self.mlp(condition).chunk(2, dim=-1)
        return modulate(x, shift, scale)


class MaskGIT(nn.Module):
    """Predicts the tokens of masked positions from the visible ones and the class.

    Example:
        >>> config = MaskGITConfig(dim=32, depth=1, heads=2, classes=3, codebook_size=11, grid=4)
        >>> model = MaskGIT(config).eval()
        >>> tokens = torch.full((2, 16), config.mask_id)
        >>> model(tokens, torch.tensor([0, config.null_label])).shape
        torch.Size([2, 16, 12])
    """

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_emb = nn.Embedding(config.classes + 1, config.dim)
        self.tok_emb = nn.Embedding(config.codebook_size + 1, config.dim)
        self.pos_emb = nn.Embedding(config.grid**2, config.dim)
        self.reg_tokens = nn.Embedding(1, config.dim)
        self.transformer = Transformer(config)
        self.last_norm = FinalNorm(config)
        self.head = nn.Linear(config.dim, config.codebook_size + 1)
        self.apply(_initialise)
        for module in self.modules():
            if isinstance(module, Block) and module.mlp is not None:
                # Gates start closed, so every block starts as the identity (adaLN-zero)
                for parameter in module.mlp.parameters():
                    nn.init.zeros_(parameter)
        self.head.weight = self.tok_emb.weight
        with torch.no_grad():
            # Upstream starts positions at random too. Sine waves tell the model from the first step which
            # positions are neighbours; short trainings never find out by themselves
            waves = sincos_positions(config.grid, config.dim)
            self.pos_emb.weight[:, : waves.shape[1]] = 0.05 * waves

    def embed(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Sum of token and position embeddings, plus the class's unless it conditions the blocks."""
        x = self.tok_emb(tokens) + self.pos_emb.weight
        return x + condition.unsqueeze(1) if self.config.conditioning == "sum" else x

    def hidden(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Final features `float [B, grid^2, dim]` for tokens `int64 [B, grid^2]` and labels `int64 [B]`."""
        condition = self.cls_emb(labels)
        x = self.embed(tokens, condition)
        register = self.reg_tokens.weight.expand(len(x), 1, -1)
        x = self.transformer(torch.cat([x, register], dim=1), condition)
        return self.last_norm(x[:, :-1], condition)

    def forward(self, tokens: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits over codebook and mask id.

        Args:
            tokens: `int64 [B, grid^2]`, `mask_id` where unknown.
            labels: `int64 [B]` in [0, classes], `null_label` for no class.
            positions: `int64 [B, P]`, positions to compute logits for; None for all. With a large codebook
                the head dominates the cost, so samplers request only the positions they write.

        Returns:
            `float [B, P or grid^2, codebook_size + 1]`.
        """
        x = self.hidden(tokens, labels)
        if positions is not None:
            x = x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return self.head(x)


@torch.no_grad()
def start_from_codebook(model: MaskGIT, codebook: Tensor, scale: float) -> None:
    """Start token embeddings, which the head shares, so that similar codes lie close together.

    Adds a random projection of the codebook to the random start. Fine-tuning on a few thousand images sees
    most codes too rarely to learn which of them mean nearly the same.

    Args:
        model: untrained.
        codebook: unit vectors of the model's codes, `float [codebook_size, D]`.
        scale: standard deviation of the added projection; the random start has 0.02.

    Raises:
        ValueError: the codebook has the wrong number of codes.
    """
    if len(codebook) != model.config.codebook_size:
        raise ValueError(f"{len(codebook)} codes for a model of {model.config.codebook_size}")
    projection = torch.randn(codebook.shape[1], model.config.dim)
    start = scale * codebook.cpu() @ projection
    model.tok_emb.weight[: len(codebook)] += start.to(model.tok_emb.weight)


def sincos_positions(grid: int, dim: int) -> Tensor:
    """Two-dimensional sine and cosine features of the grid positions, `float [grid^2, dim // 4 * 4]`.

    Half of the channels encode the row, half the column. Wavelengths grow geometrically from 2 pi positions
    to 64 times that (as in MAE, He et al. 2022, but with a range that fits small grids).
    """
    frequencies = 64.0 ** -torch.linspace(0.0, 1.0, dim // 4)
    rows, columns = torch.meshgrid(torch.arange(float(grid)), torch.arange(float(grid)), indexing="ij")
    parts = []
    for axis in (rows, columns):
        angles = axis.reshape(-1, 1) * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
