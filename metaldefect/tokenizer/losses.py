"""Losses of tokenizer training: pure functions of tensors."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from metaldefect.images import Channels

SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0


def image_gradients(images: Tensor) -> Tensor:
    """Sobel gradients of the grey image, `float [N, C, H, W]` -> `[N, 2, H-2, W-2]` (d/dx, d/dy)."""
    # In full precision: bf16 would round away the faint edges that this loss is for
    with torch.autocast(images.device.type, enabled=False):
        grey = images.float().mean(dim=1, keepdim=True)
        kernel = torch.stack([SOBEL, SOBEL.t()]).unsqueeze(1).to(grey)
        return F.conv2d(grey, kernel)


def edge_loss(images: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference of Sobel gradients, which keeps hairline defects from blurring."""
    return (image_gradients(images) - image_gradients(targets)).abs().mean()


def ssim_loss(images: Tensor, targets: Tensor, channels: Channels = 1) -> Tensor:
    """1 - mean SSIM of the grey images, `float [N, C, H, W]` in [-1, 1] (Wang et al. 2004).

    With three `channels`, 1 - the mean over the channels, each by itself.

    Gaussian window of 11 pixels, sigma 1.5, population variances; no padding, so the border of 5
    pixels counts only as neighbourhood. Equals `metaldefect.metrics.reconstruction.ssim` up to rounding to
    grey levels.
    """
    with torch.autocast(images.device.type, enabled=False):
        # Shift to [0, 2]: the luminance term needs grey levels that start at black
        x, y = (
            t.float().flatten(0, 1)[:, None] + 1.0 if channels == 3 else t.float().mean(1, keepdim=True) + 1.0
            for t in (images, targets)
        )
        maps = torch.cat([x, y, x * x, y * y, x * y])
        # Two banded matrix products: on a CPU 25 times faster than one-channel convolutions
        maps = gaussian_band(maps.shape[2]).to(maps) @ maps @ gaussian_band(maps.shape[3]).to(maps).t()
        mean_x, mean_y, square_x, square_y, product = maps.chunk(5)
        c1, c2 = (0.01 * 2.0) ** 2, (0.03 * 2.0) ** 2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
        covariance = product - mean_x * mean_y
        variances = square_x - mean_x.square() + square_y - mean_y.square()
        return 1.0 - (luminance * (2 * covariance + c2) / (variances + c2)).mean()


@functools.cache
def gaussian_band(size: int) -> Tensor:
    """Matrix `float [size - 10, size]` whose rows average 11 neighbours with a Gaussian of sigma 1.5."""
    window = torch.exp(-torch.arange(-5.0, 6.0).square() / (2 * 1.5**2))
    band = torch.zeros(size - 10, size)
    for row in range(size - 10):
        band[row, row : row + 11] = window / window.sum()
    return band


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the hinge loss of real and fake logits (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """Minus the mean logit of the generator's images."""
    return -fake.mean()


def adaptive_weight(
    images: Tensor, reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor
) -> Tensor:
    """Weight at which both losses pull equally on the last layer (Esser et al. 2021, eq. 7).

    |grad of reconstruction| / (|grad of adversarial| + 1e-4), clamped to [0, 1e4], detached.

    Args:
        images: the decoder's output, with its graph, `float [N, C, H, W]`.
        reconstruction: gradient of that loss with respect to `images`; `adversarial` likewise. Taking
            gradients instead of losses saves another backward pass through the networks behind them.
        last_layer: the weight at which to compare the gradients.
    """
    (r,) = torch.autograd.grad(images, last_layer, reconstruction, retain_graph=True)
    (a,) = torch.autograd.grad(images, last_layer, adversarial, retain_graph=True)
    return (r.norm() / (a.norm() + 1e-4)).clamp(0.0, 1e4).detach()
