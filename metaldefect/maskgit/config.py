"""MaskGIT shapes as typed data, with named factories."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from metaldefect.errors import UserError

# How the class reaches the blocks: by shifts, scales and gates (Halton-MaskGIT), or added to every token
CONDITIONINGS = ("adaln", "sum")


@dataclass(frozen=True)
class MaskGITConfig:
    """Shape of the transformer. `grid` is the number of tokens along a side; the mask id is `codebook_size`.

    `mixing` is the side (odd) of a depthwise convolution over the grid before each block; 0 for none, as in
    Halton-MaskGIT. Without it, attention must learn from data which tokens are neighbours, and a short
    training on few images does not get that far.
    """

    dim: int
    depth: int
    heads: int
    classes: int
    codebook_size: int = 16_384
    grid: int = 16
    dropout: float = 0.0
    conditioning: str = "adaln"
    mixing: int = 0

    def __post_init__(self) -> None:
        if self.conditioning not in CONDITIONINGS:
            raise UserError(f"conditioning = {self.conditioning!r}: expected {' or '.join(CONDITIONINGS)}")
        for name in ("dim", "depth", "heads", "classes", "codebook_size", "grid"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.mixing < 0 or (self.mixing and self.mixing % 2 == 0):
            raise UserError(f"mixing = {self.mixing}: must be 0 or odd")

    @property
    def head_dim(self) -> int:
        """Width of a head; if heads does not divide dim, projections are narrower than dim, as upstream's."""
        return self.dim // self.heads

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer: 8/3 dim, rounded up to a multiple of 256."""
        return -(-int(8 * self.dim / 3) // 256) * 256

    @property
    def mask_id(self) -> int:
        """Token of masked positions."""
        return self.codebook_size

    @property
    def null_label(self) -> int:
        """Label for no class, used by guidance."""
        return self.classes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


# (dim, depth, heads). tiny .. large are Halton-MaskGIT's (github.com/valeoai/Halton-MaskGIT);
# the cpu ones train on two cores.
SIZES = {
    "tiny": (384, 6, 6),
    "small": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "cpu": (192, 6, 6),
    "cpu_tiny": (128, 4, 4),
}


def named_config(
    size: str,
    *,
    classes: int,
    codebook_size: int,
    grid: int,
    heads: int | None = None,
    dropout: float = 0.0,
    conditioning: str = "adaln",
    mixing: int = 0,
) -> MaskGITConfig:
    """Config of the named size; `heads` overrides the size's (upstream's own `small` has 6)."""
    if size not in SIZES:
        raise UserError(f"unknown MaskGIT size {size!r}: there are {', '.join(SIZES)}")
    dim, depth, default_heads = SIZES[size]
    heads = heads or default_heads
    return MaskGITConfig(dim, depth, heads, classes, codebook_size, grid, dropout, conditioning, mixing)
