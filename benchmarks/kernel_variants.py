"""The formulations that `benchmarks.kernels` times: whole steps in plain PyTorch, compiled, and hand-written.

A formulation is a function of the round's number that does one training step and returns its loss. All
formulations start from the same weights and see the same batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.efficientad import training_batches
from metaldefect.efficientad.lightning_model import training_losses
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.hardware import autocast
from metaldefect.kernels.switch import cpu_kernels

Step = Callable[[int], Tensor]


@dataclass(frozen=True)
class KernelVariant:
    """One formulation. `hand_written` marks code of `metaldefect/kernels`."""

    name: str
    step: Step
    compiled: bool = False
    hand_written: bool = False


def efficientad_training(
    size: int, rounds: int, quantile: float, folder: Path, compiled: bool
) -> list[KernelVariant]:
    """EfficientAD's step; `convolution` uses the kernels of `convolution.py` but not `winograd.py`."""
    features, batches = training_batches(size, rounds, folder)
    torch.manual_seed(0)
    start = EfficientAD("S")
    start.teacher.load_state_dict(features.teacher.state_dict())
    start.teacher_mean.copy_(features.mean)
    start.teacher_std.copy_(features.std)
    start = start.to(memory_format=torch.channels_last)

    def variant(
        name: str, kernels: bool = False, winograd: bool = True, compile_model: bool = False
    ) -> KernelVariant:
        model = copy.deepcopy(start)
        if compile_model:
            for network, method in ((model.student, "trunk"), (model.teacher, "forward"),
                                    (model.autoencoder, "forward")):  # fmt: skip
                setattr(network, method, torch.compile(getattr(network, method)))
        parameters = [*model.student.parameters(), *model.autoencoder.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5, fused=True)

        def step(number: int) -> Tensor:
            torch.manual_seed(number)
            with ExitStack() as stack:
                stack.enter_context(cpu_kernels(model, enabled=kernels))
                if not winograd:
                    stack.enter_context(
                        patch("metaldefect.kernels.winograd.worthwhile", lambda *_, **__: False)
                    )
                with autocast():
                    loss = training_losses(model, batches[number % rounds], quantile)[0]
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            return loss.detach()

        return KernelVariant(name, step, compiled=compile_model, hand_written=kernels)

    variants = [
        variant("plain"),
        variant("kernels", kernels=True),
        variant("convolution", kernels=True, winograd=False),
    ]
    return [*variants, variant("compiled", compile_model=True)] if compiled else variants
