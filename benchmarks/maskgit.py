"""`python -m benchmarks.maskgit`: compare MaskGIT's training step and sampler with the plain formulation.

Both use the same weights: 69M parameters, 16,384 codes. Training steps are interleaved, at batch 8. Sampling
takes 32 steps with guidance. Speed-ups are ratios of medians. Writes
`benchmarks/results/maskgit_speed.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.plain_maskgit import plain_halton, plain_logits
from benchmarks.results import add_results_argument, publish
from metaldefect.hardware import autocast, autocast_dtype, keep_freed_memory, set_threads
from metaldefect.maskgit.config import named_config
from metaldefect.maskgit.loss import masked_cross_entropy
from metaldefect.maskgit.model import Block, MaskGIT
from metaldefect.maskgit.sampler import halton_sample
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.training_masks import training_mask
from metaldefect.random_numbers import image_generator, uniforms

GUIDANCE = 2.0


def random_model(size: str, codes: int, grid: int) -> MaskGIT:
    """The named size with random weights: with the initial closed gates every block is the identity."""
    torch.manual_seed(0)
    model = MaskGIT(named_config(size, classes=6, codebook_size=codes, grid=grid))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.04)
    return model


def plain_loss(model: MaskGIT, tokens: Tensor, labels: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Cross-entropy, with logits computed at all positions."""
    with autocast():
        logits = plain_logits(model, tokens.masked_fill(mask, model.config.mask_id), labels, dropout)
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def our_loss(model: MaskGIT, tokens: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy as this project's training computes it."""
    with autocast():
        hidden = model.hidden(tokens.masked_fill(mask, model.config.mask_id), labels)
        return masked_cross_entropy(hidden, model.head, tokens, mask)[0]


Loss = Callable[[MaskGIT, Tensor, Tensor, Tensor], Tensor]


def timed_training(
    model: MaskGIT, formulations: dict[str, tuple[Loss, bool]], steps: int, batch: int
) -> dict[str, list[float]]:
    """Seconds of each step of each formulation, interleaved on one model, without one warm-up step each.

    A formulation is a loss, and whether AdamW is fused (PyTorch's default is not).
    """
    model.train()
    parameters = list(model.parameters())
    optimizers = {
        name: torch.optim.AdamW(parameters, lr=1e-4, fused=fused or None)
        for name, (_, fused) in formulations.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in formulations}
    shape = model.config
    tokens = torch.randint(0, shape.codebook_size, (batch, shape.grid**2))
    labels = torch.randint(0, shape.classes, (batch,))
    for step in tqdm(range(steps + 1), desc="training", unit="round"):
        for name, (loss_of, _) in formulations.items():
            torch.manual_seed(step)
            mask = training_mask(batch, shape.grid, 0.0)
            started = time.perf_counter()
            loss = loss_of(model, tokens, labels, mask)
            optimizers[name].zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizers[name].step()
            if step:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def timed(call: Callable[[], Tensor], repeats: int) -> tuple[list[float], Tensor]:
    """(seconds of each call, result of the last call)."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
    return seconds, result


def measure_sampling(
    model: MaskGIT, steps: int, fewer_steps: int, images: int, batch: int, repeats: int
) -> dict[str, Any]:
    """Images per second of the plain algorithm and of ours, and whether both give the same tokens.

    Also times ours over `fewer_steps` and compares it with the plain algorithm over `steps`. Once our runs
    begin, this process keeps the memory that it frees, as the processes of the stages do.
    """
    model.eval()
    shape = model.config
    labels = torch.arange(images) % shape.classes
    config = SamplingConfig(temperature=1.0, steps=steps, guidance=GUIDANCE, roll=False)
    # The uniform numbers that halton_sample draws
    chances = uniforms([image_generator(1, number) for number in range(images)], shape.grid**2)

    def ours(count: int, how: SamplingConfig = config) -> Tensor:
        wanted = torch.arange(count) % shape.classes
        generators = [image_generator(1, number) for number in range(count)]
        return halton_sample(model, wanted, how, generators).flatten(1)

    def ours_cast(count: int, how: SamplingConfig = config) -> Tensor:
        with autocast():
            return ours(count, how)

    plain_halton(model, labels[:1], 1, GUIDANCE, None)  # warm-up
    runs: dict[str, tuple[int, list[float]]] = {}
    bar = tqdm(total=7, desc="sampling", unit="formulation")

    def run(name: str, count: int, call: Callable[[], Tensor], times: int = 1) -> Tensor:
        seconds, tokens = timed(call, times)
        runs[name] = (count, seconds)
        bar.update()
        return tokens

    # Upstream draws with its own generator, so the same algorithm with given uniforms is timed as well
    run("upstream_fp32", 1, lambda: plain_halton(model, labels[:1], steps, GUIDANCE, None))
    plain = run(
        "upstream_fp32_uniforms", images, lambda: plain_halton(model, labels, steps, GUIDANCE, chances)
    )

    def cast() -> Tensor:
        with autocast():
            return plain_halton(model, labels[:1], steps, GUIDANCE, None)

    run("upstream_autocast", 1, cast)
    # Only after upstream's runs, which use PyTorch's defaults; our stages keep freed memory
    keep_freed_memory()
    # Warm up: libraries build their kernels per shape
    one_step, fewer = (config.model_copy(update={"steps": count}) for count in (1, fewer_steps))
    ours(images, one_step)
    for count in (1, batch):
        ours_cast(count, one_step)
    same = run("ours_fp32", images, lambda: ours(images), repeats)
    run("ours_best_single", 1, lambda: ours_cast(1), repeats)
    run("ours_best", batch, lambda: ours_cast(batch), repeats)
    run("ours_fewer_steps", batch, lambda: ours_cast(batch, fewer), repeats)
    bar.close()
    per_image = {name: float(np.median(seconds)) / count for name, (count, seconds) in runs.items()}
    upstream = per_image["upstream_fp32"]
    return {
        "sample_speedup_fp32": upstream / per_image["ours_fp32"],
        "tokens_equal": bool(torch.equal(plain, same)),
        "sample_speedup_best": upstream / per_image["ours_best"],
        "sample_speedup_fp32_same_draw": per_image["upstream_fp32_uniforms"] / per_image["ours_fp32"],
        "sample_speedup_fewer_steps": upstream / per_image["ours_fewer_steps"],
        "sample_speedup_best_single": upstream / per_image["ours_best_single"],
        "best_mode": f"{autocast_dtype()} products, {batch} images per batch".removeprefix("torch."),
        "seconds_per_image": per_image,
        "sampling_runs_s": {name: seconds for name, (_, seconds) in runs.items()},
    }


def matrix_gflops(model: MaskGIT, tokens: int, seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of this machine's matrix product at a block's shape, by dtype: the upper bound for any step."""
    rates = {}
    for dtype in dict.fromkeys((torch.float32, autocast_dtype())):
        layer = model.transformer.layers[0]
        assert isinstance(layer, Block)
        weight = layer.ff.w1.weight.detach().to(dtype)
        rows = torch.randn(tokens, weight.shape[1]).to(dtype)
        F.linear(rows, weight)  # warm-up
        count, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            F.linear(rows, weight)
            count += 1
        rates[str(dtype).removeprefix("torch.")] = 2e-9 * count * tokens * weight.numel() / passed
    return rates


def peak_rss_mb() -> float:
    """The peak memory of this process in MiB, as the Linux kernel reports it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024, 1)


def main() -> None:
    """Time everything and publish the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.maskgit", description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--codes", type=int, default=16_384)
    parser.add_argument("--grid", type=int, default=16, help="tokens along a side")
    parser.add_argument("--steps", type=int, default=3, help="timed training steps of each formulation")
    parser.add_argument("--batch", type=int, default=8, help="training batch size")
    parser.add_argument("--sampling-steps", type=int, default=32)
    parser.add_argument(
        "--fewer-steps", type=int, default=16,
        help="also time our sampler with this many steps; the ablation shows the effect on the images",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=2, help="images whose tokens are compared")
    parser.add_argument("--sampling-batch", type=int, default=8, help="images per batch in the fastest mode")
    parser.add_argument("--repeats", type=int, default=2, help="timed runs of each of our samplers")
    add_results_argument(parser, "maskgit_speed")
    arguments = parser.parse_args()
    set_threads()
    model = random_model(arguments.size, arguments.codes, arguments.grid)
    plain: dict[str, tuple[Loss, bool]] = {
        "plain": (partial(plain_loss, dropout=0.1), False),
        "plain_without_dropout": (partial(plain_loss, dropout=0.0), False),
    }
    training = timed_training(model, plain, arguments.steps, arguments.batch)
    sampling = measure_sampling(
        model,
        arguments.sampling_steps,
        arguments.fewer_steps,
        arguments.images,
        arguments.sampling_batch,
        arguments.repeats,
    )
    # measure_sampling has switched on keeping freed memory, after upstream's runs
    training |= timed_training(model, {"ours": (our_loss, True)}, arguments.steps, arguments.batch)
    medians = {name: float(np.median(seconds)) for name, seconds in training.items()}
    found = {
        "train_step_speedup": medians["plain"] / medians["ours"],
        "train_step_speedup_without_dropout": medians["plain_without_dropout"] / medians["ours"],
        **sampling,
        "peak_rss_mb": peak_rss_mb(),
        "matrix_gflops": matrix_gflops(model, arguments.batch * (arguments.grid**2 + 1)),
        "train_step_s": training,
        "train_batch": arguments.batch,
        "sampling_steps": arguments.sampling_steps,
        "fewer_steps": arguments.fewer_steps,
        "guidance": GUIDANCE,
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
    }
    figures = {name: found.pop(name) for name in list(found) if "speedup" in name or name == "peak_rss_mb"}
    publish(arguments.results, "maskgit", figures, found)


if __name__ == "__main__":
    main()
