"""The targets that a teacher learns to predict: PatchCore's patch features, 384 channels, normalised."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from metaldefect.backbones import Backbone
from metaldefect.errors import UserError
from metaldefect.hardware import autocast

LAYER_FEATURES = 1024
PATCH = 3


class PatchFeatures(nn.Module):
    """PatchCore's features of a backbone, pooled to `channels`.

    PatchCore takes the 3 x 3 neighbourhood of each position, pools its values to 1,024 numbers per layer,
    brings the layers to one resolution, and pools their concatenation to 384. Each step is linear, so here
    they are one fixed 3 x 3 convolution per layer and a bilinear resize. Source: PatchCore (arXiv
    2106.08265), section 3.1, and EfficientAD's algorithm 3.

    Args:
        backbone: taps from fine to coarse; the first one sets the resolution.
        channels: channels of the pooled features; a multiple of the number of taps.
    """

    def __init__(self, backbone: Backbone, channels: int = 384) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.inference_mode():
            widths = [tap.shape[1] for tap in backbone(torch.zeros(1, 3, 128, 128))]
        if channels % len(widths):
            raise UserError(f"{channels} channels cannot be shared evenly among {len(widths)} taps")
        for index, width in enumerate(widths):
            self.register_buffer(f"kernel_{index}", pooling_kernel(width, channels // len(widths)))
        self.layers = len(widths)

    @torch.inference_mode()
    def forward(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Features `float32 [N, channels, *size]` for `images` `float [N, 3, H, W]` in [0, 1]."""
        with autocast(images.device):
            taps = self.backbone(images)
        pooled = [
            functional.interpolate(
                functional.conv2d(tap.float(), self.get_buffer(f"kernel_{index}"), padding=PATCH // 2),
                size,
                mode="bilinear",
                align_corners=False,
            )
            for index, tap in enumerate(taps)
        ]
        return torch.cat(pooled, dim=1)


def pooling_kernel(width: int, channels: int) -> Tensor:
    """A convolution `float32 [channels, width, 3, 3]` equal to unfolding patches and pooling them twice."""
    values = width * PATCH * PATCH
    # The rows of the identity show how the two poolings map each value of the patch.
    basis = torch.eye(values)[:, None]
    weights = functional.adaptive_avg_pool1d(functional.adaptive_avg_pool1d(basis, LAYER_FEATURES), channels)
    return weights[:, 0].T.reshape(channels, width, PATCH, PATCH).contiguous()


def channel_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of batches `[N, C, H, W]`: `float32 [1, C, 1, 1]`, on the CPU.

    Accumulates in float64, relative to the first batch's mean: E[x^2] - E[x]^2 in float32 loses the variance
    of a channel whose mean is large.

    Raises:
        ValueError: there are no batches.
    """
    shift, sums, squares, count = None, torch.zeros(1), torch.zeros(1), 0
    for batch in batches:
        values = batch.cpu().double()
        if shift is None:
            shift = values.mean(dim=(0, 2, 3), keepdim=True)
        centred = values - shift
        sums = sums + centred.sum(dim=(0, 2, 3), keepdim=True)
        squares = squares + centred.square().sum(dim=(0, 2, 3), keepdim=True)
        count += values.shape[0] * values.shape[2] * values.shape[3]
    if shift is None:
        raise ValueError("channel statistics need at least one batch of images")
    offset = sums / count
    variance = (squares / count - offset.square()).clamp_min(1e-12)
    return (shift + offset).float(), variance.sqrt().float()
