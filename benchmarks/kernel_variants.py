"""The formulations that `benchmarks.kernels` times: whole steps in plain PyTorch, compiled, and hand-written.

A formulation is a function of the round's number that does one training step and returns its loss. All
formulations of a part start from the same weights and see the same batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.efficientad import training_batches
from metaldefect.efficientad.lightning_model import training_losses
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.hardware import autocast
from metaldefect.images import U8
from metaldefect.kernels.switch import cpu_kernels
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.lightning_module import VQLightning, to_model_input
from metaldefect.tokenizer.losses import hinge_discriminator_loss
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.training_config import VQTrainingConfig

Step = Callable[[int], Tensor]


@dataclass(frozen=True)
class Variant:
    """One formulation. `hand_written` marks code of `metaldefect/kernels`."""

    name: str
    step: Step
    compiled: bool = False
    hand_written: bool = False


def gradient_step(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], loss: Tensor, clip: float | None
) -> None:
    """Do the backward pass, clip the gradients, and step the optimizer."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(list(parameters), clip)
    optimizer.step()


def tokenizer_training(name: str, images: U8, batch: int, compiled: bool) -> list[Variant]:
    """The tokenizer's training step with all losses and the discriminator's step, as in `VQLightning`."""
    torch.manual_seed(0)
    start = VQLightning(VQModel(named_config(name)).train(), VQTrainingConfig(steps=1000))
    stack = torch.from_numpy(images)

    def variant(label: str, kernels: bool = False, compile_model: bool = False) -> Variant:
        module = copy.deepcopy(start)
        forward = torch.compile(module.model) if compile_model else module.model
        parameters = list(module.model.parameters())
        generator = torch.optim.Adam(parameters, lr=1e-4, betas=(0.9, 0.95))
        discriminator = torch.optim.Adam(module.discriminator.parameters(), lr=1e-4, betas=(0.9, 0.95))

        def step(number: int) -> Tensor:
            first = number * batch % len(stack)
            with autocast(), cpu_kernels(module, enabled=kernels):
                pixels = to_model_input(stack[first : first + batch])
                module.discriminator.requires_grad_(False)
                output = forward(pixels)
                loss, parts = module.generator_loss(pixels, output, True)
                gradient_step(generator, parameters, loss, clip=1.0)
                module.discriminator.requires_grad_(True)
                real = module.discriminator(pixels).float()
                fake = module.discriminator(output.images.detach()).float()
                d_loss = hinge_discriminator_loss(real, fake)
                gradient_step(discriminator, module.discriminator.parameters(), d_loss, clip=1.0)
            # Compare the parts: the total is a surrogate whose gradient alone is meaningful
            return torch.stack([parts[key].float() for key in ("l1", "perceptual", "edge", "codebook")]).sum()

        return Variant(label, step, compiled=compile_model, hand_written=kernels)

    variants = [variant("plain"), variant("kernels", kernels=True)]
    return [*variants, variant("compiled", compile_model=True)] if compiled else variants


def efficientad_training(
    size: int, rounds: int, quantile: float, folder: Path, compiled: bool
) -> list[Variant]:
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
    ) -> Variant:
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
                gradient_step(optimizer, parameters, loss, clip=None)
            return loss.detach()

        return Variant(name, step, compiled=compile_model, hand_written=kernels)

    variants = [
        variant("plain"),
        variant("kernels", kernels=True),
        variant("convolution", kernels=True, winograd=False),
    ]
    return [*variants, variant("compiled", compile_model=True)] if compiled else variants
