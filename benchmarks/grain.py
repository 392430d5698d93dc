"""`python -m benchmarks.grain`: measure what the grain gains on a finished run's validation images.

Run it in a pipeline's folder after `finetune_vq`. Training and validation images pass through the tokenizer
and come back in three variants: smooth, with grain by their codes alone, and with grain as strong as in the
most similar measured image. A classifier trained on real images classifies the validation images of each
variant; a classifier trained on each variant classifies the real validation images. Writes
`benchmarks/results/grain.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish
from metaldefect.artifacts import read_json
from metaldefect.backbones import pooled_features
from metaldefect.feature_classifier import Features, classifier
from metaldefect.hardware import keep_freed_memory, set_threads
from metaldefect.images import U8, to_u8
from metaldefect.ingest.loading import load_images, split_rows
from metaldefect.metrics.generation import kid
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.grain import Floats, Grain
from metaldefect.synthesis.residual import codes_and_levels
from metaldefect.tokenizer.checkpoints import load_tokenizer

MERGED = Path("data/merged")


def variants(grain: Grain) -> dict[str, Grain | None]:
    """Name -> no grain, grain by the codes alone, and the full grain."""
    return {
        "without": None,
        "by_codes": replace(grain, excess=torch.ones_like(grain.excess)),
        "by_codes_and_images": grain,
    }


def rendered(grain: Grain | None, codes: Tensor, levels: Floats, batch_size: int = 16) -> U8:
    """Decoded images `float32 [N, size, size]` with the grain, as `uint8`."""
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
    parser.add_argument("--seed", type=int, default=0, help="seed of the classifiers (default: %(default)s)")
    add_results_argument(parser, "grain")
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
    figures: dict[str, float] = {
        "classifier_accuracy_on_real": float(balanced_accuracy_score(labels, judge.predict(features)))
    }
    for name, variant in tqdm(variants(grain).items(), desc="variants"):
        train, held = (pooled_features(rendered(variant, *coded[split])) for split in ("train", "validation"))
        learned = classifier(train, real["train"][1], arguments.seed)
        # Equal numbers per class, as among drawn images
        figures[f"class_agreement_{name}"] = float(balanced_accuracy_score(labels, judge.predict(held)))
        figures[f"cas_reconstruction_{name}"] = float(
            balanced_accuracy_score(labels, learned.predict(features))
        )
        figures[f"kid_{name}"] = kid(features, held)
    details = {
        "validation_images": len(labels),
        "tokenizer_images_seen": read_json("metrics/finetune_vq.json")["images_seen"],
    }
    publish(arguments.results, "grain", figures, details)


if __name__ == "__main__":
    main()
