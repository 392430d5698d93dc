"""Learning-rate schedules, composed of torch's own."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

FLOOR = 0.05  # where the cosine ends, relative to the learning rate


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: int) -> LRScheduler:
    """Linear from 1 / `warmup` over `warmup` steps, then a cosine down to 0.05 at `steps`.

    Args:
        optimizer: all its groups have the same learning rate, the schedule's maximum.
        steps: length of the whole training.
        warmup: warm-up steps; 0 for none.
    """
    rate = optimizer.param_groups[0]["lr"]
    cosine = CosineAnnealingLR(optimizer, max(1, steps - warmup), eta_min=FLOOR * rate)
    if warmup == 0:
        return cosine
    linear = LinearLR(optimizer, 1.0 / warmup, total_iters=max(1, warmup - 1))
    return SequentialLR(optimizer, [linear, cosine], [warmup])


def warmup_constant(optimizer: Optimizer, warmup: int) -> LRScheduler:
    """Linear from 1 / `warmup` over `warmup` steps, then constant: for a training without a fixed end.

    An average of the weights takes the place of a falling rate.
    """
    return LinearLR(optimizer, 1.0 / max(1, warmup), total_iters=max(1, warmup - 1))
