"""`python -m benchmarks.kernels`: are the hand-written CPU kernels faster than PyTorch and torch.compile?

Times EfficientAD's whole training step in plain PyTorch, compiled (the warm-up that compiles is reported
separately), and with the kernels, in interleaved rounds on the same batches. The verdict keeps a kernel if
the whole step is at least 1.2 times as fast as both plain and compiled. Writes
`benchmarks/results/kernels.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.kernel_variants import KernelVariant, efficientad_training
from benchmarks.maskgit import peak_rss_mb
from benchmarks.results import add_results_argument, publish
from metaldefect.efficientad.config import TrainingConfig
from metaldefect.hardware import autocast_dtype, keep_freed_memory, set_threads

WORTHWHILE = 1.2
PART = "efficientad_training"


def timed(variant: KernelVariant, number: int) -> tuple[float, torch.Tensor]:
    """(seconds, returned value) of one step."""
    started = time.perf_counter()
    returned = variant.step(number)
    return time.perf_counter() - started, returned


def measure(variants: list[KernelVariant], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and results of every variant: one warm-up step each, then `rounds` interleaved steps.

    The variant that goes first changes from round to round.
    """
    found: dict[str, dict[str, Any]] = {
        v.name: {"seconds": [], "returned": [], "compiled": v.compiled, "hand_written": v.hand_written}
        for v in variants
    }
    for number in tqdm(range(rounds + 1), desc=PART, unit="round"):
        first = number % len(variants)
        for variant in variants[first:] + variants[:first]:
            seconds, returned = timed(variant, number)
            row = found[variant.name]
            row["returned"].append(returned)
            if number:
                row["seconds"].append(seconds)
            else:
                row["first_step_s"] = seconds
    return found


def difference(returned: list[torch.Tensor], plain: list[torch.Tensor]) -> float:
    """The largest relative difference between losses."""
    pairs = zip(returned, plain, strict=True)
    return max(float((ours - theirs).abs() / theirs.abs()) for ours, theirs in pairs)


def summarise(found: dict[str, dict[str, Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    """(figures, details): medians, speed-ups over plain, compile times, differences, verdict."""
    medians = {name: float(np.median(row["seconds"])) for name, row in found.items()}
    plain = found["plain"]["returned"]
    figures: dict[str, float] = {}
    for name, row in found.items():
        figures[f"{PART}_{name}_s"] = medians[name]
        if name == "plain":
            continue
        figures[f"{PART}_{name}_speedup"] = medians["plain"] / medians[name]
        figures[f"{PART}_{name}_difference"] = difference(row["returned"], plain)
        if row["compiled"]:
            figures[f"{PART}_{name}_compile_s"] = row["first_step_s"] - medians[name]
    others = min(value for name, value in medians.items() if not found[name]["hand_written"])
    verdict = {}
    for name, row in found.items():
        if row["hand_written"]:
            gain = others / medians[name]
            figures[f"{PART}_{name}_gain"] = gain
            verdict[name] = "keep" if gain >= WORTHWHILE else "delete"
    seconds = {name: row["seconds"] for name, row in found.items()}
    losses = {name: [float(loss) for loss in row["returned"]] for name, row in found.items()}
    return figures, {"seconds": seconds, "losses": losses, "verdict": verdict}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="timed steps of each formulation (default: %(default)s)")
    add("--no-compile", action="store_true", help="leave torch.compile out (it needs a C++ compiler)")
    add("--image-size", type=int, default=256, help="pixels per side (default: %(default)s)")
    add(
        "--hard-quantile",
        type=float,
        default=TrainingConfig.model_fields["hard_quantile"].default,
        help="default: %(default)s",
    )
    add_results_argument(parser, "kernels")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    set_threads()
    kept = keep_freed_memory()  # as every training of this project does, and here for all formulations alike
    with tempfile.TemporaryDirectory() as folder:
        variants = efficientad_training(
            args.image_size, args.rounds + 1, args.hard_quantile, Path(folder), compiled=not args.no_compile
        )
        figures, details = summarise(measure(variants, args.rounds))
    details |= {
        "keeps_freed_memory": kept,
        "dtype": str(autocast_dtype()).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {k: v for k, v in vars(args).items() if k != "results"},
    }
    publish(args.results, "kernels", figures | {"peak_rss_mb": peak_rss_mb()}, details)


if __name__ == "__main__":
    main()
