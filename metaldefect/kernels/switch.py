"""The one switch between the hand-written CPU kernels and PyTorch's own layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class HasCpuKernel:
    """Mix-in for layers with a hand-written CPU kernel next to their plain formulation.

    A layer computes the plain formulation unless `cpu_kernels` enables the kernel; neither `train()` nor
    gradient mode changes that.
    """

    cpu_kernel: bool = False


def is_on_cpu(model: nn.Module) -> bool:
    """Whether the model's weights are on the CPU."""
    return next(model.parameters()).device.type == "cpu"


@contextmanager
def cpu_kernels(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Enable or disable the CPU kernels of the layers of `model` within the `with` block.

    Results agree with the plain formulation up to rounding. Run the backward pass in the same block:
    activation checkpointing recomputes layers there and must do so in the same way.

    Example:
        >>> from metaldefect.efficientad.torch_model import EfficientAD
        >>> model = EfficientAD("S")
        >>> with cpu_kernels(model, enabled=True):
        ...     model.student.cpu_kernel
        True
        >>> model.student.cpu_kernel
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
