"""Tokenizer shapes as typed data, with named factories."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from metaldefect.config import Config
from metaldefect.errors import UserError
from metaldefect.images import Channels


class CodebookSettings(Config):
    """How many codes there are; tokens are integers in [0, codebook_size)."""

    codebook_size: int = Field(default=16_384, ge=2)


class VQConfig(CodebookSettings):
    """Shape of a VQ tokenizer.

    `stem` = 1 is LlamaGen's network. A stem of s first folds s x s pixels into channels
    (pixel-unshuffle) and unfolds them at the end, so no layer works at full resolution: on a CPU
    those layers take most of the time.

    `patch_path` adds a linear transform of patches in parallel to encoder and decoder, which
    `metaldefect.tokenizer.patch_start` fits in closed form. Training then starts from k-means on patches,
    with sharp brightness and edges, and the convolutions learn the rest.

    `field` is the side of the grid of local means that is subtracted before encoding and given back after
    decoding (see `VQModel.field`), 0 for none. What is left is multiplied by `residual_gain`: without the
    light, grey levels spread less. `deblock` is the reach in pixels of the correction of cell borders
    (see `tokenizer.deblocking`), 0 for none.

    `image_channels`: 1 reads images as grey and writes the mean of the network's three channels, 3 keeps
    colours. `hue_codes`: how many of the codes, the last ones, stand for patches of another hue than the
    light around them; the last `hue_dim` coordinates of an entry say which (see `tokenizer.colour`).
    """

    channels: int = Field(default=128, gt=0, multiple_of=32)  # GroupNorm has 32 groups
    multipliers: tuple[PositiveInt, ...] = (1, 1, 2, 2, 4)
    encoder_blocks: PositiveInt = 2
    decoder_blocks: PositiveInt = 3
    z_channels: PositiveInt = 256
    codebook_dim: PositiveInt = 8
    commitment: float = 0.25
    stem: Literal[1, 2, 4, 8] = 1
    patch_path: bool = False
    field: int = Field(default=0, ge=0)
    residual_gain: float = Field(default=1.0, gt=0)
    deblock: int = Field(default=0, ge=0)
    image_channels: Channels = 1
    hue_codes: int = Field(default=0, ge=0)

    @property
    def hue_dim(self) -> int:
        """Coordinates of an entry that say its hue."""
        return 2 if self.hue_codes else 0

    def in_colour(self) -> VQConfig:
        """The shape with three image channels; with a patch path, half as many codes again for hues."""
        if self.image_channels == 3 or not self.patch_path:
            return self.replace(image_channels=3)
        hues = self.codebook_size // 2
        return self.replace(
            image_channels=3,
            codebook_size=self.codebook_size + hues,
            hue_codes=hues,
            codebook_dim=self.codebook_dim + 2,
        )

    @property
    def downsampling(self) -> int:
        """Pixels per token along a side."""
        return self.stem * 2 ** (len(self.multipliers) - 1)

    def grid(self, image_size: int) -> int:
        """Tokens along a side of a square image; raises a UserError if the size is not a multiple of f."""
        if image_size % self.downsampling:
            raise UserError(f"image size {image_size} is not a multiple of {self.downsampling}")
        return image_size // self.downsampling


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
        field=4,
        residual_gain=1.5,
        deblock=4,
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
        field=2,
        residual_gain=1.5,
        deblock=4,
    ),
}
# The same network for 128 pixel images: also 16x16 tokens, so four times as many tokens per area
NAMED["vq8_small"] = NAMED["vq16_small"].replace(stem=2)


def named_config(name: str, codebook_size: int | None = None) -> VQConfig:
    """The config called `name`, optionally with another codebook size.

    Raises:
        UserError: unknown name; the message lists the known ones.
    """
    if name not in NAMED:
        raise UserError(f"unknown tokenizer {name!r}: there are {', '.join(NAMED)}")
    config = NAMED[name]
    return config if codebook_size is None else config.replace(codebook_size=codebook_size)
