"""The VQ autoencoder, with LlamaGen's module names so that its state dicts load unchanged.

Source of the shapes: github.com/FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.deblocking import deblock
from metaldefect.tokenizer.quantizer import Quantized, VectorQuantizer


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Twice GroupNorm, SiLU and convolution, with a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, with 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        h = self.norm(x)
        q, k, v = (m(h).flatten(2).transpose(1, 2).unsqueeze(1) for m in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(out.squeeze(1).transpose(1, 2).reshape(n, c, height, width))


class Downsample(nn.Module):
    """Halve the side: one row and column of zeros at the far edges, then a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the side: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution: residual blocks (at the lowest each with attention), then resampling."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResidualBlock(inputs if i == 0 else outputs, outputs) for i in range(blocks))
        self.attn = nn.ModuleList(AttentionBlock(outputs) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for resample in ("downsample", "upsample"):
            if hasattr(self, resample):
                x = getattr(self, resample)(x)
        return x


def middle(channels: int) -> nn.ModuleList:
    return nn.ModuleList(
        [ResidualBlock(channels, channels), AttentionBlock(channels), ResidualBlock(channels, channels)]
    )


class Encoder(nn.Module):
    """Image `[N, 3, H, W]` to features `[N, z_channels, H/f, W/f]`."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.stem = config.stem
        self.conv_in = nn.Conv2d(3 * config.stem**2, config.channels, 3, padding=1)
        widths = [config.channels * m for m in config.multipliers]
        self.conv_blocks = nn.ModuleList()
        inputs = config.channels
        for i, outputs in enumerate(widths):
            last = i == len(widths) - 1
            level = Level(inputs, outputs, config.encoder_blocks, attention=last)
            if not last:
                level.downsample = Downsample(outputs)
            self.conv_blocks.append(level)
            inputs = outputs
        self.mid = middle(inputs)
        self.norm_out = group_norm(inputs)
        self.conv_out = nn.Conv2d(inputs, config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(x, self.stem) if self.stem > 1 else x)
        for block in [*self.conv_blocks, *self.mid]:
            h = block(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Features `[N, z_channels, H/f, W/f]` to an image `[N, 3, H, W]`."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.stem = config.stem
        widths = [config.channels * m for m in reversed(config.multipliers)]
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = middle(widths[0])
        self.conv_blocks = nn.ModuleList()
        inputs = widths[0]
        for i, outputs in enumerate(widths):
            level = Level(inputs, outputs, config.decoder_blocks, attention=i == 0)
            if i < len(widths) - 1:
                level.upsample = Upsample(outputs)
            self.conv_blocks.append(level)
            inputs = outputs
        self.norm_out = group_norm(inputs)
        self.conv_out = nn.Conv2d(inputs, 3 * config.stem**2, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        """The weight at which the adaptive adversarial weight compares gradients."""
        return self.conv_out.weight

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for block in [*self.mid, *self.conv_blocks]:
            h = block(h)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h, self.stem) if self.stem > 1 else h


class PatchPath(nn.Module):
    """A linear map from pixel patches to code vectors, and from 3x3 code vectors to a patch.

    Stays in float32 under autocast: it carries the grey level, which bfloat16 would round, and is cheap.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        side, dim = config.downsampling, config.codebook_dim
        self.side = side
        self.inwards = nn.Conv2d(3, dim, side, stride=side)
        self.outwards = nn.Conv2d(dim, 3 * side**2, 3, padding=1)

    def encode(self, images: Tensor) -> Tensor:
        """`float [N, 3, H, W]` to `float32 [N, codebook_dim, H/f, W/f]`."""
        with torch.autocast(images.device.type, enabled=False):
            return self.inwards(images.float())

    def decode(self, z: Tensor) -> Tensor:
        """`float [N, codebook_dim, h, w]` to `float32 [N, 3, h*f, w*f]`."""
        with torch.autocast(z.device.type, enabled=False):
            return F.pixel_shuffle(self.outwards(z.float()), self.side)


class Reconstruction(NamedTuple):
    """Output of the tokenizer's forward pass."""

    images: Tensor  # float [N, 3, H, W]
    quantized: Quantized


class VQModel(nn.Module):
    """Tokenizer: encodes images in [-1, 1] as integers in [0, codebook_size) and decodes them.

    With the config `vq16` it is LlamaGen's VQ-16, whose checkpoints load unchanged. f below is
    `config.downsampling`; heights and widths must be multiples of f.

    Example:
        >>> from metaldefect.tokenizer.config import named_config
        >>> model = VQModel(named_config("vq16_tiny")).eval()
        >>> images = torch.zeros(1, 3, 64, 64)
        >>> tokens = model.encode(images)
        >>> tokens.shape, tokens.dtype, model.decode(tokens, model.field(images)).shape
        (torch.Size([1, 4, 4]), torch.int64, torch.Size([1, 3, 64, 64]))
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = VectorQuantizer(config.codebook_size, config.codebook_dim, config.hue_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_dim, config.z_channels, 1)
        self.patch_path = PatchPath(config) if config.patch_path else None

    def field(self, images: Tensor) -> Tensor:
        """Means of the cells of a coarse grid, `float32 [N, 3, field, field]`: the light on the metal.

        A tokenizer with a field subtracts it before encoding and gives it back after decoding, so its tokens
        need not say how bright the metal is. Without one (LlamaGen), returns `[N, 3, 0, 0]`.
        """
        if not self.config.field:
            return images.new_empty(len(images), 3, 0, 0)
        return F.adaptive_avg_pool2d(images.float(), self.config.field)

    def encoder_input(self, images: Tensor) -> Tensor:
        """Images `float [N, 3, H, W]` without their field, amplified."""
        if not self.config.field:
            return images
        smooth = spread(self.field(images), images.shape[-2:])
        return (images.float() - smooth) * self.config.residual_gain

    def features(self, images: Tensor) -> Tensor:
        """Features before quantisation, `float [N, codebook_dim, H/f, W/f]`."""
        images = self.encoder_input(images)
        z = self.quant_conv(self.encoder(images))
        return z if self.patch_path is None else z + self.patch_path.encode(images)

    def to_images(self, z: Tensor, field: Tensor) -> Tensor:
        """Quantised features `float [N, codebook_dim, h, w]` and a field to `float [N, 3, h*f, w*f]`."""
        images = self.decoder(self.post_quant_conv(z))
        images = images if self.patch_path is None else images + self.patch_path.decode(z)
        images = deblock(images, self.config.downsampling, self.config.deblock)
        if not self.config.field:
            return images
        return images.float() / self.config.residual_gain + spread(field, images.shape[-2:])

    def forward(self, images: Tensor) -> Reconstruction:
        """Reconstruct `float [N, 3, H, W]` in [-1, 1]."""
        quantized = self.quantize(self.features(images))
        return Reconstruction(self.to_images(quantized.z, self.field(images)), quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """`float [N, 3, H, W]` in [-1, 1] to tokens `int64 [N, H/f, W/f]`."""
        z = self.features(images).float().permute(0, 2, 3, 1)
        shape = z.shape[:3]
        return self.quantize.nearest(self.quantize.on_sphere(z.reshape(-1, z.shape[-1]))).view(shape)

    @torch.no_grad()
    def decode(self, tokens: Tensor, field: Tensor | None = None) -> Tensor:
        """Tokens `int64 [N, h, w]` to `float [N, 3, h*f, w*f]`, about [-1, 1] (not clamped).

        Args:
            tokens: each in [0, codebook_size).
            field: the light on the metal, `float [N, 3, field, field]` as `field()` returns it; a tokenizer
                without a field takes None.

        Raises:
            ValueError: the tokenizer has a field, and none of the right shape is given.
        """
        wanted = (len(tokens), 3, self.config.field, self.config.field)
        if field is None:
            field = torch.empty(len(tokens), 3, 0, 0)
        if tuple(field.shape) != wanted:
            raise ValueError(f"the field has shape {list(field.shape)}, expected {list(wanted)}")
        return self.to_images(self.quantize.lookup(tokens), field.to(tokens.device))


def spread(field: Tensor, size: Sequence[int]) -> Tensor:
    """Bicubic interpolation of a field `float [N, 3, field, field]` to `[N, 3, H, W]`."""
    return F.interpolate(field.float(), tuple(size), mode="bicubic", align_corners=False)
