"""`python -m benchmarks.grain`: what the grain is worth, on a finished run's tokenizer and validation images.

Run it in a pipeline's folder after `finetune_vq`. Training and validation images go through the tokenizer and
come back smooth, with grain by their codes alone, and with grain as strong as in the measured image most like
theirs. A classifier that learned from real images is asked about the validation images, and one that learned
from training images through the tokenizer about the real ones. It writes section `grain` of
`benchmarks/results/<profile>.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from tqdm import tqdm

from metaldefect.artifacts import read_json, write_json
from metaldefect.backbones import pooled_features
from metaldefect.feature_classifier import Features, classifier
from metaldefect.hardware import cpu_name, keep_freed_memory, set_threads
from metaldefect.images import U8, to_u8
from metaldefect.ingest.loading import load_images, split_rows
from metaldefect.metrics.generation import kid
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.grain import Floats, Grain
from metaldefect.synthesis.residual import codes_and_levels
from metaldefect.tokenizer.checkpoints import load_tokenizer

RESULTS = Path("benchmarks/results")
MERGED = Path("data/merged")


def variants(grain: Grain) -> dict[str, Grain | None]:
    """The grain as it is and what it is made of."""
    return {
        "none": None,
        "by codes": replace(grain, excess=torch.ones_like(grain.excess)),
        "by codes and images": grain,
    }


def rendered(grain: Grain | None, codes: Tensor, levels: Floats, batch_size: int = 16) -> U8:
    """Decoded images `float32 [N, size, size]` with the grain, `uint8`."""
    if grain is None:
        return to_u8(levels)
    generators = [image_generator(0, "grain", number) for number in range(len(codes))]
    starts = tqdm(range(0, len(codes), batch_size), desc="grain", unit="batch")
    parts = [
        to_u8(
            levels[i : i + batch_size]
            + grain.draw(codes[i : i + batch_size], levels.shape[1], generators[i : i + batch_size])
        )
        for i in starts
    ]
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grain", description=__doc__)
    parser.add_argument("--profile", default="real", help="whose results file gets the section")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    vq = Path("models/vq")
    grain = Grain.load(vq) if vq.is_dir() else None
    if grain is None or not (MERGED / "samples.parquet").is_file():
        sys.exit("no models/vq with a grain or no data/merged here: run the pipeline up to finetune_vq")
    set_threads()
    keep_freed_memory()
    model = load_tokenizer(vq)
    size = int(read_json(vq / "config.json")["image_size"])
    real: dict[str, tuple[Features, Any]] = {}
    coded: dict[str, tuple[Tensor, Floats]] = {}
    for split in ("train", "validation"):
        rows = split_rows(MERGED, split)
        images = load_images(MERGED, rows, size, f"real {split}")
        real[split] = (pooled_features(images), rows["label"].to_numpy(str))
        coded[split] = codes_and_levels(model, images)
    judge = classifier(*real["train"], arguments.seed)
    features, labels = real["validation"]
    found: dict[str, Any] = {}
    for name, variant in variants(grain).items():
        train, held = (pooled_features(rendered(variant, *coded[split])) for split in ("train", "validation"))
        learned = classifier(train, real["train"][1], arguments.seed)
        found[name] = {
            # Classes in equal numbers, as drawn images come
            "class_agreement": float(balanced_accuracy_score(labels, judge.predict(held))),
            "cas_reconstruction": float(balanced_accuracy_score(labels, learned.predict(features))),
            "kid": kid(features, held),
        }
    section = {
        "variants": found,
        "classifier_accuracy_on_real": float(balanced_accuracy_score(labels, judge.predict(features))),
        "validation_images": len(labels),
        "tokenizer_images_seen": read_json("metrics/finetune_vq.json")["images_seen"],
        "command": " ".join(["python -m benchmarks.grain", *sys.argv[1:]]),
        "machine": cpu_name(),
    }
    results = RESULTS / f"{'default' if arguments.profile == 'cpu' else arguments.profile}.json"
    write_json(results, {**(read_json(results) if results.is_file() else {}), "grain": section})
    print(json.dumps(section))


if __name__ == "__main__":
    main()
