"""How token grids are drawn, as typed settings."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from metaldefect.config import Config

Order = Literal["halton", "random", "confidence"]
ORDERS: tuple[Order, ...] = get_args(Order)


class DrawingSettings(Config):
    """What every drawing decides: effort, and the balance of fidelity and variety.

    Attributes:
        steps: passes through the model; never more than there are unknown positions.
        guidance: w of (1 + w) conditional - w unconditional logits; 0 needs one pass per step, not two.
        temperature: higher is more diverse.
    """

    steps: PositiveInt = 16
    guidance: float = Field(default=2.0, ge=0)
    temperature: PositiveFloat = 0.7


class SamplingConfig(DrawingSettings):
    """How to sample.

    Attributes:
        order: `halton`, `random` or `confidence`.
        roll: shift the Halton order per sample, so that samples of one seed start at different positions.
        guidance_schedule: `constant`, or `linear` from 0 at the first step to w at the last.
        temperature_convention: `divide` logits by the temperature, as in the literature, or `multiply`
            them by it, as Halton-MaskGIT's code does.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the fewest most probable tokens that together have this probability; 1 keeps all.
        confidence_noise: Gumbel noise added to the confidence, falling to 0 with the last step (4.5 in
            MaskGIT).
    """

    order: Order = "halton"
    roll: bool = True
    guidance_schedule: Literal["constant", "linear"] = "constant"
    temperature_convention: Literal["divide", "multiply"] = "divide"
    top_k: NonNegativeInt = 0
    top_p: float = Field(default=1.0, gt=0, le=1)
    confidence_noise: float = Field(default=4.5, ge=0)

    def guidance_at(self, step: int, steps: int) -> float:
        """w at a step, counted from 0, out of `steps`."""
        if self.guidance_schedule == "constant" or steps == 1:
            return self.guidance
        return self.guidance * step / (steps - 1)
