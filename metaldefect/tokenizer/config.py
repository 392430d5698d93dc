"""Tokenizer shapes as typed data, with named factories."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from metaldefect.errors import UserError


@dataclass(frozen=True)
class VQConfig:
    """Shape of a VQ tokenizer.

    `stem` = 1 is LlamaGen's network. A stem of s first folds s x s pixels into channels
    (pixel-unshuffle) and unfolds them at the end, so no layer works at full resolution: on a CPU
    those layers take most of the time.

    `patch_path` adds a linear transform of patches in parallel to encoder and decoder, which
    `metaldefect.tokenizer.patch_start` fits in closed form. Training then starts from k-means on patches,
    with sharp brightness and edges, and the convolutions learn the rest.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    z_channels: int = 256
    codebook_size: int = 16_384
    codebook_dim: int = 8
    commitment: float = 0.25
    entropy_ratio: float = 0.0
    stem: int = 1
    patch_path: bool = False

    def __post_init__(self) -> None:
        if self.channels % 32:
            raise UserError(f"channels = {self.channels}: must be a multiple of 32 (GroupNorm has 32 groups)")
        if self.codebook_size < 2:
            raise UserError(f"codebook_size = {self.codebook_size}: must be at least 2")
        if self.stem not in (1, 2, 4, 8):
            raise UserError(f"stem = {self.stem}: must be 1, 2, 4 or 8")

    @property
    def downsampling(self) -> int:
        """Pixels per token along a side."""
        return self.stem * 2 ** (len(self.multipliers) - 1)

    def grid(self, image_size: int) -> int:
        """Tokens along a side of a square image; raises a UserError if the size is not a multiple of f."""
        if image_size % self.downsampling:
            raise UserError(f"image size {image_size} is not a multiple of {self.downsampling}")
        return image_size // self.downsampling

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self) | {"multipliers": list(self.multipliers)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> VQConfig:
        """Inverse of `to_dict`; raises a UserError that names unknown keys."""
        unknown = set(content) - set(cls.__dataclass_fields__)
        if unknown:
            raise UserError(f"unknown tokenizer config keys: {', '.join(sorted(unknown))}")
        return cls(**{**content, "multipliers": tuple(content["multipliers"])})


NAMED = {
    # LlamaGen VQ-16 and VQ-8 (github.com/FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py)
    "vq16": VQConfig(),
    "vq8": VQConfig(multipliers=(1, 2, 2, 4)),
    # Same blocks behind a quarter-resolution stem; sized for training on a CPU
    "vq16_small": VQConfig(
        channels=64,
        multipliers=(1, 2, 3),
        encoder_blocks=1,
        decoder_blocks=2,
        z_channels=128,
        codebook_size=1024,
        stem=4,
        patch_path=True,
    ),
    "vq16_tiny": VQConfig(
        channels=32,
        multipliers=(1, 2, 2),
        encoder_blocks=1,
        decoder_blocks=1,
        z_channels=32,
        codebook_size=256,
        stem=4,
        patch_path=True,
    ),
}
# The same network for 128 pixel images: also 16x16 tokens, so four times as many tokens per area
NAMED["vq8_small"] = replace(NAMED["vq16_small"], stem=2)


def named_config(name: str, codebook_size: int | None = None) -> VQConfig:
    """The config called `name`, optionally with another codebook size.

    Raises:
        UserError: unknown name; the message lists the known ones.
    """
    if name not in NAMED:
        raise UserError(f"unknown tokenizer {name!r}: there are {', '.join(NAMED)}")
    config = NAMED[name]
    return config if codebook_size is None else replace(config, codebook_size=codebook_size)
