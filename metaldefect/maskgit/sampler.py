"""Samplers: pure functions from a model and one `torch.Generator` per grid to token grids.

All samplers write each unknown position once, request logits only for the positions they consider, and never
change a known token. They differ in which positions a step writes: the next in the Halton order, random
ones, or those with the most confident predictions.

A grid depends on the model, its label, its known tokens and its generator, but not on the other grids of the
batch: guidance and noise follow each grid's own number of steps. Only rounding remains. A matrix product over
another batch may differ in the last digit, and a token changes if its uniform number lies within that digit
of the border between two tokens; in bfloat16 the last digit is coarse.

Generators are on the CPU; the numbers they draw move to the labels' device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.schedule import cumulative_counts, halton_order
from metaldefect.random_numbers import uniforms


class TokenModel(Protocol):
    """Interface that a sampler needs from a model."""

    @property
    def config(self) -> MaskGITConfig: ...

    def __call__(self, tokens: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor: ...


def sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    known: Tensor | None = None,
    history: list[Tensor] | None = None,
) -> Tensor:
    """Draw token grids in the order that `config` names.

    Args:
        model: computes logits at requested positions.
        labels: class of each sample, `int64 [B]` in [0, classes), on the model's device.
        config: how to sample.
        generators: randomness of each sample, on the CPU; see `image_generator`.
        known: `int64 [B, grid, grid]` with `mask_id` at positions to draw; other tokens are given and never
            change. None draws whole grids.
        history: if given, the grids after each step are appended, `mask_id` where not yet written.

    Returns:
        `int64 [B, grid, grid]` on the labels' device, every token in [0, codebook_size).

    Raises:
        ValueError: a label or known token is out of range, a grid has the wrong size, or the numbers of
            generators and labels differ.
    """
    sampler = {"halton": halton_sample, "random": random_sample, "confidence": confidence_sample}
    return sampler[config.order](model, labels, config, generators, known, history)


@torch.no_grad()
def halton_sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    known: Tensor | None = None,
    history: list[Tensor] | None = None,
) -> Tensor:
    """Draw token grids in the Halton order, which keeps tokens of the same step far apart; see `sample`."""
    tokens = initial_tokens(labels, known, model.config, generators)
    size = model.config.grid**2
    order = torch.tensor(halton_order(model.config.grid)).expand(len(tokens), -1)
    if config.roll:
        shift = torch.cat([torch.randint(0, size, (1, 1), generator=generator) for generator in generators])
        order = order.gather(1, (torch.arange(size) + shift) % size)
    return _write_in_order(model, labels, config, generators, tokens, order, history)


@torch.no_grad()
def random_sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    known: Tensor | None = None,
    history: list[Tensor] | None = None,
) -> Tensor:
    """Draw token grids in a uniformly random order per sample; see `sample`."""
    tokens = initial_tokens(labels, known, model.config, generators)
    order = uniforms(generators, tokens.shape[1]).argsort(dim=1)
    return _write_in_order(model, labels, config, generators, tokens, order, history)


@torch.no_grad()
def confidence_sample(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    known: Tensor | None = None,
    history: list[Tensor] | None = None,
) -> Tensor:
    """Draw token grids in order of confidence (MaskGIT, Chang et al. 2022); see `sample`.

    A step draws a token for every unknown position, scores it by its log-probability plus Gumbel noise,
    and keeps the best; the others stay unknown. Each step draws two uniform numbers per position: first for
    the token, then for the noise.
    """
    shape = model.config
    tokens = initial_tokens(labels, known, shape, generators)
    plan = _Plan.of(tokens, shape, config)
    for step in range(plan.steps):
        chances = uniforms(generators, tokens.shape[1]).to(tokens.device)
        noise = uniforms(generators, tokens.shape[1]).clamp_min(1e-20)
        noise = -torch.log(-torch.log(noise)).to(tokens.device)
        before, until = plan.written_before(step), plan.counts[:, step]
        if torch.equal(before, until):
            continue
        unknown = tokens == shape.mask_id
        width = int((plan.counts[:, -1] - before).max())
        positions = (~unknown).int().argsort(dim=1, stable=True)[:, :width]
        logits = guided_logits(model, tokens, labels, positions, plan.guidance(step))
        p = probabilities(logits[..., : shape.codebook_size], config)
        drawn = invert_cumulative(p, chances.gather(1, positions))
        noise_scale = config.confidence_noise * plan.share_left(step).to(tokens.device)
        score = p.gather(-1, drawn.unsqueeze(-1)).squeeze(-1).log()
        score = score + noise_scale[:, None] * noise.gather(1, positions)
        # Surplus slots of samples with fewer unknown positions than others in the batch are never chosen
        score = score.masked_fill(~unknown.gather(1, positions), -torch.inf)
        rank = score.argsort(dim=1, descending=True).argsort(dim=1)
        chosen = rank < (until - before).to(tokens.device)[:, None]
        tokens.scatter_(1, positions, torch.where(chosen, drawn, tokens.gather(1, positions)))
        if history is not None:
            history.append(tokens.view(-1, shape.grid, shape.grid).clone())
    return tokens.view(-1, shape.grid, shape.grid)


def _write_in_order(
    model: TokenModel,
    labels: Tensor,
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    tokens: Tensor,
    order: Tensor,
    history: list[Tensor] | None,
) -> Tensor:
    """Fill the unknown positions of `tokens` `[B, grid^2]` in the given order (a CPU tensor)."""
    shape = model.config
    order = order.to(tokens.device)
    # Unknown positions first, keeping their order
    first = (tokens.gather(1, order) != shape.mask_id).int().argsort(dim=1, stable=True)
    order = order.gather(1, first)
    # Draw one uniform number per position up front, so that a position's token, given its logits, does not
    # depend on the number of steps
    chances = uniforms(generators, tokens.shape[1]).to(tokens.device)
    plan = _Plan.of(tokens, shape, config)
    for step in range(plan.steps):
        before, until = plan.written_before(step), plan.counts[:, step]
        width = int((until - before).max())
        if width == 0:
            continue
        slots = before[:, None] + torch.arange(width)
        in_turn = (slots < until[:, None]).to(tokens.device)
        positions = order.gather(1, slots.clamp(max=shape.grid**2 - 1).to(tokens.device))
        logits = guided_logits(model, tokens, labels, positions, plan.guidance(step))
        p = probabilities(logits[..., : shape.codebook_size], config)
        drawn = invert_cumulative(p, chances.gather(1, positions))
        # Samples with fewer positions left than others in the batch ignore the surplus slots
        tokens.scatter_(1, positions, torch.where(in_turn, drawn, tokens.gather(1, positions)))
        if history is not None:
            history.append(tokens.view(-1, shape.grid, shape.grid).clone())
    return tokens.view(-1, shape.grid, shape.grid)


@dataclass(frozen=True)
class _Plan:
    """How many positions of each sample are written by each step, on the CPU.

    The schedule covers a sample's unknown positions, not the grid. A sample with fewer unknown positions than
    steps finishes early, and its guidance and noise schedules end with it.
    """

    config: SamplingConfig
    own_steps: Tensor  # int64 [B]
    counts: Tensor  # int64 [B, steps]; steps is the largest of `own_steps`

    @classmethod
    def of(cls, tokens: Tensor, shape: MaskGITConfig, config: SamplingConfig) -> _Plan:
        unknown = (tokens == shape.mask_id).sum(dim=1).tolist()
        counts = [cumulative_counts(n, max(1, min(config.steps, n))) for n in unknown]
        steps = max(len(c) for c in counts)
        return cls(
            config,
            torch.tensor([len(c) for c in counts]),
            torch.tensor([c + [c[-1]] * (steps - len(c)) for c in counts]),
        )

    @property
    def steps(self) -> int:
        return self.counts.shape[1]

    def written_before(self, step: int) -> Tensor:
        """Number of positions of each sample that earlier steps wrote, `int64 [B]`."""
        return self.counts[:, step - 1] if step else torch.zeros_like(self.own_steps)

    def guidance(self, step: int) -> Tensor:
        """w of each sample, `float32 [B]`."""
        own = self.own_steps.tolist()
        return torch.tensor([self.config.guidance_at(min(step, steps - 1), steps) for steps in own])

    def share_left(self, step: int) -> Tensor:
        """From 1 at each sample's first step to 0 at its last, `float32 [B]`."""
        last = (self.own_steps - 1).clamp_min(1)
        return torch.where(self.own_steps > 1, 1.0 - step / last, 0.0).clamp_min(0.0)


def initial_tokens(
    labels: Tensor, known: Tensor | None, shape: MaskGITConfig, generators: Sequence[torch.Generator]
) -> Tensor:
    """Checked, flat start grids: all masked, or the known tokens."""
    if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) >= shape.classes:
        raise ValueError(f"labels {labels.tolist()}: expected numbers from 0 to {shape.classes - 1}")
    if len(generators) != len(labels):
        raise ValueError(f"{len(generators)} generators for {len(labels)} labels: give one per image")
    if known is None:
        return torch.full((len(labels), shape.grid**2), shape.mask_id, device=labels.device)
    if known.shape != (len(labels), shape.grid, shape.grid):
        raise ValueError(
            f"known tokens have shape {list(known.shape)}, expected {[len(labels), shape.grid, shape.grid]}"
        )
    if int(known.min()) < 0 or int(known.max()) > shape.mask_id:
        raise ValueError(f"known tokens must lie in [0, {shape.mask_id}]")
    return known.flatten(1).clone()


def guided_logits(
    model: TokenModel, tokens: Tensor, labels: Tensor, positions: Tensor, guidance: Tensor
) -> Tensor:
    """Classifier-free guidance, (1 + w) conditional - w unconditional; a single pass if every w is 0.

    `guidance` is w of each sample, `float32 [B]` on the CPU.
    """
    if not guidance.any():
        return model(tokens, labels, positions).float()
    null = torch.full_like(labels, model.config.null_label)
    both = model(tokens.repeat(2, 1), torch.cat([labels, null]), positions.repeat(2, 1)).float()
    conditional, unconditional = both.chunk(2)
    w = guidance.to(both.device)[:, None, None]
    return (1.0 + w) * conditional - w * unconditional


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Convert logits `[B, P, V]` to probabilities: temperature, then top-k, then top-p."""
    divided = config.temperature_convention == "divide"
    p = (logits / config.temperature if divided else logits * config.temperature).softmax(dim=-1)
    if config.top_k and config.top_k < p.shape[-1]:
        p = p.masked_fill(p < p.topk(config.top_k, dim=-1).values[..., -1:], 0.0)
        p = p / p.sum(dim=-1, keepdim=True)
    if config.top_p < 1.0:
        descending, index = p.sort(dim=-1, descending=True)
        wide = torch.float32 if p.device.type == "mps" else torch.float64
        before = descending.to(wide).cumsum(dim=-1) - descending
        descending = descending.masked_fill(before >= config.top_p, 0.0)
        p = torch.zeros_like(p).scatter_(-1, index, descending)
        p = p / p.sum(dim=-1, keepdim=True)
    return p


def invert_cumulative(p: Tensor, chances: Tensor) -> Tensor:
    """Tokens `int64 [B, P]` at which the cumulative of `p` `[B, P, V]` passes uniform numbers `[B, P]`."""
    # Apple's GPUs have no float64
    wide = torch.float32 if p.device.type == "mps" else torch.float64
    cumulative = p.to(wide).cumsum(dim=-1)
    threshold = chances.to(wide).unsqueeze(-1) * cumulative[..., -1:]
    index = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return index.clamp(max=p.shape[-1] - 1)
