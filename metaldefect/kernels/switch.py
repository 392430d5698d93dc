"""The one switch between the hand-written CPU kernels and PyTorch's own layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class HasCpuKernel:
    """Mix-in of layers that have a hand-written CPU kernel beside their plain formulation.

    A layer computes the plain formulation until `cpu_kernels` says otherwise; neither `train()` nor
    gradient mode changes that.
    """

    cpu_kernel: bool = False


def is_on_cpu(model: nn.Module) -> bool:
    """Whether the model's weights are in the CPU's memory."""
    return next(model.parameters()).device.type == "cpu"


@contextmanager
def cpu_kernels(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Let the layers of `model` use their CPU kernels (or not) within the block, then as before.

    Results agree with the plain formulation but for rounding. The backward pass belongs into the block too:
    layers that are computed again for it must be computed the same way.

    Example:
        >>> from metaldefect.maskgit.config import MaskGITConfig
        >>> from metaldefect.maskgit.model import MaskGIT
        >>> model = MaskGIT(MaskGITConfig(dim=32, depth=1, heads=2, classes=2, codebook_size=8, grid=4))
        >>> with cpu_kernels(model, enabled=True):
        ...     model.transformer.layers[0].cpu_kernel
        True
        >>> model.transformer.layers[0].cpu_kernel
        False
    """
    layers = [module for module in model.modules() if isinstance(module, HasCpuKernel)]
    before = [layer.cpu_kernel for layer in layers]
    for layer in layers:
        layer.cpu_kernel = enabled
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.cpu_kernel = value
