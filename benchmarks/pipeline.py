"""Run the whole pipeline under a stopwatch and keep what it measured.

`python -m benchmarks.pipeline [--profile real] [--stage finetune_vq]` runs DVC in this workspace, writes
`benchmarks/results/<profile>.json` (`default.json` for the default profile) and prints one line of JSON.
With `--stage` only that stage and what it needs are run, and its section alone is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from metaldefect.artifacts import read_json, write_json
from metaldefect.hardware import cpu_name

RESULTS = Path("benchmarks/results")
# What the results keep of each stage's metrics
KEPT: dict[str, tuple[str, ...]] = {
    "merge": ("total", "per_class", "groups", "duplicate_pairs", "groups_across_splits"),
    "finetune_vq": (
        "before", "after", "gain", "curve", "images_seen", "train_images", "held_out_images", "perceptual",
    ),
    "tokenize": ("codes",),
    "train_maskgit": (
        "masked_ce", "unigram", "class_unigram", "ce_true", "ce_wrong", "ce_null", "ce_wrong_minus_true",
        "ce_below_class_unigram", "top1", "top5", "images_seen", "parameters", "vocabulary", "interval_95",
    ),
    "synthesize": (
        "kid", "precision", "recall", "class_agreement", "classifier_accuracy_on_real", "cas", "memorisation",
        "seams", "extractor", "manifold", "class_agreement_candidates", "class_agreement_reconstruction",
        "diversity",
    ),
    "distill_teacher": ("source", "held_out_loss", "explained_variance", "random_pdn"),
    "train_efficientad": (
        "image_auroc", "image_ap", "f1_max", "f1_at_threshold", "false_alarm_rate", "pixel_auroc", "au_pro",
        "interval_95", "images",
    ),
    "export_openvino": ("parity", "fp32", "fp16", "int8"),
    "latency": ("fp32", "fp16", "int8"),
}  # fmt: skip


class MemoryWatch(threading.Thread):
    """Peak of the summed resident memory of a process and its children, sampled twice a second."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process = process
        self.peak = 0

    def run(self) -> None:
        while self.process.is_running():
            try:
                family = [self.process, *self.process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            total = 0
            for member in family:
                try:
                    total += member.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)
            time.sleep(0.5)


def collect(stages: Iterable[str]) -> dict[str, Any]:
    """The kept metrics of these stages."""
    found = {}
    for stage in stages:
        metrics = read_json(Path("metrics") / f"{stage}.json")
        found[stage] = {key: metrics[key] for key in KEPT[stage] if key in metrics}
    return found


def tokenizer_section(stage: dict[str, Any]) -> dict[str, Any]:
    """Fine-tuning as one table: before and after with intervals, the gain, the curve against images seen."""
    sides = {}
    for side in ("before", "after"):
        values = dict(stage[side])
        codebook = values.pop("codebook")
        sides[side] = values | {"codebook_use": codebook["used"], "perplexity": codebook["perplexity"]}
    kept = ("gain", "curve", "images_seen", "train_images", "held_out_images", "perceptual")
    return sides | {key: stage[key] for key in kept}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--profile", default="cpu", help="cpu (default), real, real128, paper or tiny")
    parser.add_argument("--stage", choices=sorted(KEPT), help="only this stage and what it needs")
    args = parser.parse_args()
    command = [sys.executable, "-m", "dvc"]
    command += ["repro"] if args.profile == "cpu" else ["exp", "run", "-S", f"profile={args.profile}"]
    command += [args.stage] if args.stage else []
    start = time.monotonic()
    process = subprocess.Popen(command)
    watch = MemoryWatch(psutil.Process(process.pid))
    watch.start()
    if process.wait():
        sys.exit(process.returncode)
    seconds = time.monotonic() - start
    typed = f"python -m benchmarks.pipeline --profile {args.profile}"
    result: dict[str, Any] = {
        "command": f"{typed} --stage {args.stage}" if args.stage else typed,
        "machine": cpu_name(),
        "seconds": round(seconds, 1),
        "peak_rss_gib": round(watch.peak / 2**30, 2),
        **collect([args.stage] if args.stage else KEPT),
    }
    if "finetune_vq" in result:
        about = {key: result[key] for key in ("command", "machine")}
        result["tokenizer"] = about | tokenizer_section(result["finetune_vq"])
    name = "default" if args.profile == "cpu" else args.profile
    path = RESULTS / f"{name}.json"
    # Sections that other commands measured stay
    kept = read_json(path) if path.is_file() else {}
    if args.stage:
        result = {key: value for key, value in result.items() if key in (args.stage, "tokenizer")}
    write_json(path, kept | result)
    print(json.dumps({"seconds": round(seconds, 1), "peak_rss_gib": round(watch.peak / 2**30, 2)}))


if __name__ == "__main__":
    main()
