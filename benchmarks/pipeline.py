"""Run the whole pipeline under a stopwatch and keep what it measured.

`python -m benchmarks.pipeline [--profile real]` runs DVC in this workspace, writes
`benchmarks/results/<profile>.json` (`default.json` for the default profile) and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from metaldefect.artifacts import read_json, write_json
from metaldefect.hardware import cpu_name

RESULTS = Path("benchmarks/results")
# What the results keep of each stage's metrics
KEPT: dict[str, tuple[str, ...]] = {
    "merge": ("total", "per_class", "groups", "duplicate_pairs", "groups_across_splits"),
    "finetune_vq": ("before", "after", "images_seen", "train_images", "held_out_images", "perceptual"),
    "tokenize": ("codes",),
    "train_maskgit": (
        "masked_ce", "unigram", "class_unigram", "ce_true", "ce_wrong", "ce_null", "ce_wrong_minus_true",
        "ce_below_class_unigram", "top1", "top5", "images_seen", "parameters", "vocabulary", "interval_95",
    ),
    "synthesize": (
        "kid", "precision", "recall", "class_agreement", "classifier_accuracy_on_real", "cas", "memorisation",
        "seams", "extractor", "manifold", "class_agreement_reconstruction", "diversity",
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


def collect() -> dict[str, Any]:
    """The kept metrics of every stage."""
    found = {}
    for stage, keys in KEPT.items():
        metrics = read_json(Path("metrics") / f"{stage}.json")
        found[stage] = {key: metrics[key] for key in keys if key in metrics}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--profile", default="cpu", help="cpu (default), real, paper or tiny")
    args = parser.parse_args()
    command = [sys.executable, "-m", "dvc"]
    command += ["repro"] if args.profile == "cpu" else ["exp", "run", "-S", f"profile={args.profile}"]
    start = time.monotonic()
    process = subprocess.Popen(command)
    watch = MemoryWatch(psutil.Process(process.pid))
    watch.start()
    if process.wait():
        sys.exit(process.returncode)
    seconds = time.monotonic() - start
    result = {
        "command": f"python -m benchmarks.pipeline --profile {args.profile}",
        "machine": cpu_name(),
        "seconds": round(seconds, 1),
        "peak_rss_gib": round(watch.peak / 2**30, 2),
        **collect(),
    }
    name = "default" if args.profile == "cpu" else args.profile
    write_json(RESULTS / f"{name}.json", result)
    print(json.dumps({"seconds": result["seconds"], "peak_rss_gib": result["peak_rss_gib"]}))


if __name__ == "__main__":
    main()
