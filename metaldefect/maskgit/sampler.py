"""Samplers: pure functions from a model and a `torch.Generator` to token grids.

All of them write each unknown position once, ask the model for logits at the positions they consider and
nowhere else, and never touch a known token. They differ in which positions a step writes: those next in
the Halton order, random ones, or those the model is surest of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metaldefect.errors import UserError
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.schedule import cumulative_counts, halton_order

ORDERS = ("halton", "random", "confidence")
GUIDANCE_SCHEDULES = ("constant", "linear")
TEMPERATURE_CONVENTIONS = ("divide", "multiply")


class TokenModel(Protocol):
    """What a sampler needs of a model."""

    @property
    def config(self) -> MaskGITConfig: ...

    def __call__(self, tokens: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class SamplingConfig:
    """How to sample.

    Attributes:
        steps: passes through the model, at least 1; never more than there are unknown positions.
        order: `halton`, `random` or `confidence`.
        roll: shift the Halton order per sample, so that samples of one seed differ in where they begin.
        guidance: w of (1 + w) conditional - w unconditional logits; 0 takes one pass a step.
        guidance_schedule: `constant`, or `linear` from 0 at the first step to w at the last.
        temperature: above 0; high is diverse, low is sure.
        temperature_convention: `divide` logits by the temperature, as in the literature, or `multiply`
            them by it, as Halton-MaskGIT's code does.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the fewest likeliest tokens that together have this probability; 1 keeps all.
        confidence_noise: Gumbel noise added to the confidence, falling to 0 with the last step (4.5 in
            MaskGIT).
    """

    steps: int = 16
    order: str = "halton"
    roll: bool = True
    guidance: float = 1.0
    guidance_schedule: str = "constant"
    temperature: float = 1.0
    temperature_convention: str = "divide"
    top_k: int = 0
    top_p: float = 1.0
    confidence_noise: float = 4.5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps = {self.steps}: must be at least 1")
        if self.temperature <= 0:
            raise UserError(f"temperature = {self.temperature}: must be above 0")
        for name in ("guidance", "top_k", "confidence_noise"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} = {getattr(self, name)}: must be at least 0")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: must be above 0 and at most 1")
        for name, allowed in (
            ("order", ORDERS),
            ("guidance_schedule", GUIDANCE_SCHEDULES),
            ("temperature_convention", TEMPERATURE_CONVENTIONS),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} = {getattr(self, name)!r}: expected {', '.join(allowed)}")

    def guidance_at(self, step: int, steps: int) -> float:
        """w of a step, counted from 0, out of `steps`."""
        if self.guidance_schedule == "constant" or steps == 1:
            return self.guidance
        return self.guidance * step / (steps - 1)


def sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generator: torch.Generator,
    known: Tensor | None = None,
    history: list[Tensor] | None = None,
) -> Tensor:
    """Draw token grids in the order that `config` names.

    Args:
        model: gives logits at asked positions.
        labels: class of each sample, `int64 [B]` in [0, classes).
        config: how to sample.
        generator: source of all randomness.
        known: `int64 [B, grid, grid]` with `mask_id` where a token is wanted; other tokens are given
            and never rewritten. None draws whole grids.
        history: where given, the grids after each step are appended, `mask_id` where not yet written.

    Returns:
        `int64 [B, grid, grid]`, every token in [0, codebook_size).

    Raises:
        ValueError: a label or a known token out of range, a grid of another size.
    """
    sampler = {"halton": halton_sample, "random": random_sample, "confidence": confidence_sample}
    return sampler[config.order](model, labels, config, generator, known, history)


@torch.no_grad()
def halton_sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generator: torch.Generator,
    known: Tensor | None = None,
    history: list[Tensor] | None = None,
) -> Tensor:
    """Draw token grids in the Halton order, which keeps tokens of one step far apart; see `sample`."""
    tokens = initial_tokens(labels, known, model.config)
    size = model.config.grid**2
    order = torch.tensor(halton_order(model.config.grid)).expand(len(tokens), -1)
    if config.roll:
        shift = torch.randint(0, size, (len(tokens), 1), generator=generator)
        order = order.gather(1, (torch.arange(size) + shift) % size)
    return _write_in_order(model, labels, config, generator, tokens, order, history)


@torch.no_grad()
def random_sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generator: torch.Generator,
    known: Tensor | None = None,
    history: list[Tensor] | None = None,
) -> Tensor:
    """Draw token grids in an order of each sample's own, uniformly random; see `sample`."""
    tokens = initial_tokens(labels, known, model.config)
    order = torch.rand(tokens.shape, generator=generator).argsort(dim=1)
    return _write_in_order(model, labels, config, generator, tokens, order, history)


@torch.no_grad()
def confidence_sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generator: torch.Generator,
    known: Tensor | None = None,
    history: list[Tensor] | None = None,
) -> Tensor:
    """Draw token grids surest first (MaskGIT, Chang et al. 2022); see `sample`.

    A step draws a token for every unknown position, scores it by its log-probability plus Gumbel noise,
    and keeps the best; the others stay unknown. Per step two uniform numbers a position are drawn: for
    the token, then for the noise.
    """
    shape = model.config
    tokens = initial_tokens(labels, known, shape)
    plans = _step_counts(tokens, shape, config)
    steps = plans.shape[1]
    written = torch.zeros(len(tokens), dtype=torch.long)
    for step in range(steps):
        uniforms = torch.rand(tokens.shape, generator=generator)
        noise = -torch.log(-torch.log(torch.rand(tokens.shape, generator=generator).clamp_min(1e-20)))
        wanted = plans[:, step] - written
        written = plans[:, step]
        if int(wanted.max()) == 0:
            continue
        unknown = tokens == shape.mask_id
        width = int(unknown.sum(dim=1).max())
        positions = (~unknown).int().argsort(dim=1, stable=True)[:, :width]
        logits = guided_logits(model, tokens, labels, positions, config.guidance_at(step, steps))
        p = probabilities(logits[..., : shape.codebook_size], config)
        drawn = invert_cumulative(p, uniforms.gather(1, positions))
        left = 1.0 - step / (steps - 1) if steps > 1 else 0.0
        score = p.gather(-1, drawn.unsqueeze(-1)).squeeze(-1).log()
        score = score + config.confidence_noise * left * noise.gather(1, positions)
        # Samples with fewer unknown positions than others in the batch have surplus slots: never chosen
        score = score.masked_fill(~unknown.gather(1, positions), -torch.inf)
        rank = score.argsort(dim=1, descending=True).argsort(dim=1)
        drawn = torch.where(rank < wanted[:, None], drawn, tokens.gather(1, positions))
        tokens.scatter_(1, positions, drawn)
        if history is not None:
            history.append(tokens.view(-1, shape.grid, shape.grid).clone())
    return tokens.view(-1, shape.grid, shape.grid)


def _write_in_order(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generator: torch.Generator,
    tokens: Tensor,
    order: Tensor,
    history: list[Tensor] | None,
) -> Tensor:
    """Fill the unknown positions of `tokens` `[B, grid^2]` in the given order of positions."""
    shape = model.config
    # Unknown positions first, in their order
    first = (tokens.gather(1, order) != shape.mask_id).int().argsort(dim=1, stable=True)
    order = order.gather(1, first)
    # One uniform number a position, drawn up front: what a position becomes given its logits does not
    # depend on how steps are cut
    uniforms = torch.rand(tokens.shape, generator=generator)
    plans = _step_counts(tokens, shape, config)
    steps = plans.shape[1]
    written = torch.zeros(len(tokens), dtype=torch.long)
    for step in range(steps):
        until = plans[:, step]
        width = int((until - written).max())
        if width == 0:
            continue
        slots = written[:, None] + torch.arange(width)
        positions = order.gather(1, slots.clamp(max=shape.grid**2 - 1))
        logits = guided_logits(model, tokens, labels, positions, config.guidance_at(step, steps))
        p = probabilities(logits[..., : shape.codebook_size], config)
        drawn = invert_cumulative(p, uniforms.gather(1, positions))
        # Samples with fewer positions left than others in the batch ignore the surplus
        drawn = torch.where(slots < until[:, None], drawn, tokens.gather(1, positions))
        tokens.scatter_(1, positions, drawn)
        written = until
        if history is not None:
            history.append(tokens.view(-1, shape.grid, shape.grid).clone())
    return tokens.view(-1, shape.grid, shape.grid)


def _step_counts(tokens: Tensor, shape: MaskGITConfig, config: SamplingConfig) -> Tensor:
    """How many positions of each sample are written after each step, `int64 [B, steps]`.

    The schedule runs over the unknown positions, not over the grid. A sample with fewer of them than
    steps is done early.
    """
    unknown = (tokens == shape.mask_id).sum(dim=1).tolist()
    counts = [cumulative_counts(n, max(1, min(config.steps, n))) for n in unknown]
    steps = max(len(c) for c in counts)
    return torch.tensor([c + [c[-1]] * (steps - len(c)) for c in counts])


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


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Logits `[B, P, V]` to probabilities after temperature, top-k and top-p, in that order."""
    divided = config.temperature_convention == "divide"
    p = (logits / config.temperature if divided else logits * config.temperature).softmax(dim=-1)
    if config.top_k and config.top_k < p.shape[-1]:
        p = p.masked_fill(p < p.topk(config.top_k, dim=-1).values[..., -1:], 0.0)
        p = p / p.sum(dim=-1, keepdim=True)
    if config.top_p < 1.0:
        descending, index = p.sort(dim=-1, descending=True)
        before = descending.double().cumsum(dim=-1) - descending
        descending = descending.masked_fill(before >= config.top_p, 0.0)
        p = torch.zeros_like(p).scatter_(-1, index, descending)
        p = p / p.sum(dim=-1, keepdim=True)
    return p


def invert_cumulative(p: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens `int64 [B, P]`: where the cumulative of `p` `[B, P, V]` passes the uniforms `[B, P]`."""
    cumulative = p.double().cumsum(dim=-1)
    threshold = uniforms.double().unsqueeze(-1) * cumulative[..., -1:]
    index = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return index.clamp(max=p.shape[-1] - 1)
