"""Losses of tokenizer training: pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0


def image_gradients(images: Tensor) -> Tensor:
    """Sobel gradients of the grey image, `float [N, C, H, W]` -> `[N, 2, H-2, W-2]` (d/dx, d/dy)."""
    # In full precision: bf16 would round away the faint edges that this term is for
    with torch.autocast(images.device.type, enabled=False):
        grey = images.float().mean(dim=1, keepdim=True)
        kernel = torch.stack([SOBEL, SOBEL.t()]).unsqueeze(1).to(grey)
        return F.conv2d(grey, kernel)


def edge_loss(images: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference of Sobel gradients: what keeps hairline defects from blurring."""
    return (image_gradients(images) - image_gradients(targets)).abs().mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the hinge loss of real and fake logits (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """Minus the mean logit of the generator's images."""
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Weight that makes both losses pull equally on the last layer (Esser et al. 2021, eq. 7).

    |grad of reconstruction| / (|grad of adversarial| + 1e-4), clamped to [0, 1e4], detached.
    """
    (r,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (a,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (r.norm() / (a.norm() + 1e-4)).clamp(0.0, 1e4).detach()
