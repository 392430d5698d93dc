"""Samplers: pure functions from a model and a `torch.Generator` to token grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.schedule import cumulative_counts, halton_order


class TokenModel(Protocol):
    """What a sampler needs of a model."""

    @property
    def config(self) -> MaskGITConfig: ...

    def __call__(self, tokens: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class SamplingConfig:
    """How to sample.

    `guidance` w mixes (1 + w) conditional - w unconditional logits; `temperature` divides them;
    `top_k` keeps the k likeliest tokens (0: all); `roll` shifts the Halton order per sample, so that
    samples of one seed differ in where they begin.
    """

    steps: int = 16
    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    roll: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}: must be at least 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature}: must be above 0")
        if self.guidance < 0:
            raise ValueError(f"guidance = {self.guidance}: must be at least 0")


class Plan(NamedTuple):
    """Which positions each step writes."""

    order: Tensor  # int64 [B, grid^2], unknown positions first
    unknown: Tensor  # int64 [B], how many there are


@torch.no_grad()
def halton_sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generator: torch.Generator,
    known: Tensor | None = None,
) -> Tensor:
    """Draw token grids in Halton order.

    Args:
        model: gives logits at asked positions.
        labels: class of each sample, `int64 [B]` in [0, classes).
        config: how to sample.
        generator: source of all randomness.
        known: `int64 [B, grid, grid]` with `mask_id` where a token is wanted; other tokens are given
            and never rewritten. None draws whole grids.

    Returns:
        `int64 [B, grid, grid]`, every token in [0, codebook_size).

    Raises:
        ValueError: a label or a known token out of range, a grid of another size.
    """
    shape = model.config
    tokens = initial_tokens(labels, known, shape)
    plan = halton_plan(tokens, shape, config, generator)
    # One uniform number a position, drawn up front: what a position becomes given its logits does not
    # depend on how steps are cut
    uniforms = torch.rand(tokens.shape, generator=generator)
    counts = [cumulative_counts(int(n), min(config.steps, max(1, int(n)))) for n in plan.unknown]
    written = torch.zeros(len(tokens), dtype=torch.long)
    for step in range(max(len(c) for c in counts)):
        until = torch.tensor([c[min(step, len(c) - 1)] for c in counts])
        width = int((until - written).max())
        if width == 0:
            continue
        slots = written[:, None] + torch.arange(width)
        positions = plan.order.gather(1, slots.clamp(max=shape.grid**2 - 1))
        logits = guided_logits(model, tokens, labels, positions, config.guidance)
        drawn = draw(logits[..., : shape.codebook_size], uniforms.gather(1, positions), config)
        # Samples with fewer positions left than others in the batch ignore the surplus
        drawn = torch.where(slots < until[:, None], drawn, tokens.gather(1, positions))
        tokens.scatter_(1, positions, drawn)
        written = until
    return tokens.view(-1, shape.grid, shape.grid)


def initial_tokens(labels: Tensor, known: Tensor | None, shape: MaskGITConfig) -> Tensor:
    """Flat start grids, checked: all masked, or the known tokens."""
    if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) >= shape.classes:
        raise ValueError(f"labels {labels.tolist()}: expected numbers from 0 to {shape.classes - 1}")
    if known is None:
        return torch.full((len(labels), shape.grid**2), shape.mask_id)
    if known.shape != (len(labels), shape.grid, shape.grid):
        raise ValueError(
            f"known tokens have shape {list(known.shape)}, expected {[len(labels), shape.grid, shape.grid]}"
        )
    if int(known.min()) < 0 or int(known.max()) > shape.mask_id:
        raise ValueError(f"known tokens must lie in [0, {shape.mask_id}]")
    return known.flatten(1).clone()


def halton_plan(
    tokens: Tensor, shape: MaskGITConfig, config: SamplingConfig, generator: torch.Generator
) -> Plan:
    """Unknown positions of each sample in (rolled) Halton order, known ones after them."""
    size = shape.grid**2
    order = torch.tensor(halton_order(shape.grid)).expand(len(tokens), -1)
    if config.roll:
        shift = torch.randint(0, size, (len(tokens), 1), generator=generator)
        order = order.gather(1, (torch.arange(size) + shift) % size)
    unknown = tokens.gather(1, order) == shape.mask_id
    first = torch.argsort((~unknown).int(), dim=1, stable=True)
    return Plan(order.gather(1, first), unknown.sum(dim=1))


def guided_logits(
    model: TokenModel, tokens: Tensor, labels: Tensor, positions: Tensor, guidance: float
) -> Tensor:
    """Classifier-free guidance, (1 + w) conditional - w unconditional; one pass when w is 0."""
    if guidance == 0:
        return model(tokens, labels, positions).float()
    null = torch.full_like(labels, model.config.null_label)
    both = model(tokens.repeat(2, 1), torch.cat([labels, null]), positions.repeat(2, 1)).float()
    conditional, unconditional = both.chunk(2)
    return (1.0 + guidance) * conditional - guidance * unconditional


def draw(logits: Tensor, uniforms: Tensor, config: SamplingConfig) -> Tensor:
    """Draw by inverting the cumulative distribution: `[B, P, V]` and uniforms `[B, P]` -> `int64 [B, P]`."""
    if config.top_k and config.top_k < logits.shape[-1]:
        least = logits.topk(config.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    cumulative = (logits / config.temperature).softmax(dim=-1).double().cumsum(dim=-1)
    threshold = uniforms.double().unsqueeze(-1) * cumulative[..., -1:]
    index = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return index.clamp(max=logits.shape[-1] - 1)
