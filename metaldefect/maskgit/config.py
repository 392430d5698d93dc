"""MaskGIT shapes as typed data, with named factories."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from metaldefect.config import Config
from metaldefect.errors import UserError
from metaldefect.tokenizer.config import CodebookSettings


class BlockSettings(Config):
    """What a person chooses about the transformer's blocks.

    Attributes:
        heads: of attention.
        dropout: on the branches of each block.
        conditioning: how the class reaches the blocks: `adaln` by shifts, scales and gates (Halton-MaskGIT),
            `sum` added to every token.
        mixing: side (odd) of a depthwise convolution over the grid before each block; 0 for none, as in
            Halton-MaskGIT. Without it, attention must learn from data which tokens are neighbours, and a
            short training on few images does not get that far.
    """

    heads: PositiveInt
    dropout: float = Field(default=0.0, ge=0, lt=1)
    conditioning: Literal["adaln", "sum"] = "adaln"
    mixing: NonNegativeInt = 0

    @field_validator("mixing")
    @classmethod
    def _odd(cls, mixing: int) -> int:
        if mixing and mixing % 2 == 0:
            raise ValueError("must be 0 or odd")
        return mixing


class ShapeSettings(BlockSettings):
    """What `named_config` makes a model's shape from, besides the data's numbers."""

    size: str


class MaskGITConfig(BlockSettings, CodebookSettings):
    """Shape of the transformer. `grid`: tokens along a side; the mask id is `codebook_size`."""

    dim: PositiveInt
    depth: PositiveInt
    classes: PositiveInt
    grid: PositiveInt

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


def named_config(size: str, *, classes: int, codebook_size: int, grid: int, **blocks: Any) -> MaskGITConfig:
    """Config of the named size.

    Args:
        size: a name in `SIZES`.
        classes: number of labels.
        codebook_size: number of codes.
        grid: tokens along a side.
        blocks: fields of `BlockSettings`; `heads` overrides the size's (upstream's own `small` has 6).

    Raises:
        UserError: unknown size; the message lists the known ones.
    """
    if size not in SIZES:
        raise UserError(f"unknown MaskGIT size {size!r}: there are {', '.join(SIZES)}")
    dim, depth, heads = SIZES[size]
    shape = {"dim": dim, "depth": depth, "classes": classes, "codebook_size": codebook_size, "grid": grid}
    return MaskGITConfig(**{"heads": heads, **blocks, **shape})
