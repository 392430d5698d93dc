"""`python -m benchmarks.generation`: the quality of a finished run's drawn images, with all intervals.

Run it in a pipeline's folder after `evaluate_maskgit` and `evaluate_synthesis`. It takes their measurements
and adds two that cost minutes: the gain of training on drawn images in addition to 10, 30 and all real ones
per class, and CAS through the tokenizer, an upper bound for any MaskGIT that uses it. Writes
`benchmarks/results/generation.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish, with_interval
from metaldefect.artifacts import read_json
from metaldefect.backbones import pooled_features
from metaldefect.feature_classifier import Features, classifier
from metaldefect.hardware import keep_freed_memory, set_threads
from metaldefect.images import U8
from metaldefect.ingest.loading import load_images, split_rows
from metaldefect.metrics.bootstrap import bootstrap_mean
from metaldefect.metrics.generation_suite import Labelled
from metaldefect.metrics.usefulness import chosen_weight, gain
from metaldefect.synthesis.drawing import through_tokenizer
from metaldefect.synthesis.evaluation import EXTRACTOR, drawn_images
from metaldefect.synthesis.painter import Painter, load_painter

SYNTHETIC, MERGED = Path("data/synthetic"), Path("data/merged")
PER_CLASS: dict[str, int | None] = {"10": 10, "30": 30, "all": None}


def real_images(split: str, size: int) -> tuple[U8, pd.DataFrame]:
    """The images of a split of the merged set, and their table rows."""
    rows = split_rows(MERGED, split)
    return load_images(MERGED, rows, size, f"real {split}"), rows


def usefulness(
    painter: Painter, fake: Labelled, seeds: int, weights: list[float], seed: int
) -> dict[str, Any]:
    """Gains at each number of real images from drawn images, and from reconstructed training images.

    Validation images choose the weight of the added images, separately for each number of real images. The
    result also holds the CAS of training images, reconstructed and original.
    """
    train_images, train_rows = real_images("train", painter.image_size)
    train = (pooled_features(train_images), train_rows["label"].to_numpy(str))
    held, groups = {}, []
    for split in ("validation", "test"):
        images, rows = real_images(split, painter.image_size)
        held[split] = (pooled_features(images), rows["label"].to_numpy(str))
        groups = rows["group"].tolist()  # ends as those of the test images
    through = (pooled_features(through_tokenizer(painter, train_images)), train[1])
    repeats = range(seed, seed + seeds)
    found: dict[str, Any] = {}
    for name, added in (("gain", (fake.features, fake.labels)), ("gain_reconstruction", through)):
        found[name] = {}
        for size, count in tqdm(PER_CLASS.items(), desc=name, unit="size"):
            weight = chosen_weight(train, added, held["validation"], count, repeats, weights)
            found[name][size] = gain(train, added, held["test"], groups, count, repeats, weight) | {
                "synthetic_weight": weight
            }
    return {
        **found,
        "cas_reconstruction": accuracy(*through, held["test"], groups, seed),
        "cas_real": accuracy(*train, held["test"], groups, seed),
        "synthetic_weights": weights,
        "seeds": seeds,
    }


def accuracy(
    features: Features,
    labels: np.ndarray[Any, Any],
    test: tuple[Features, np.ndarray[Any, Any]],
    groups: list[object],
    seed: int,
) -> dict[str, float]:
    """Accuracy on real test images of a classifier trained on the given features."""
    return bootstrap_mean(classifier(features, labels, seed).predict(test[0]) == test[1], groups)


def value(metrics: dict[str, Any], key: str) -> dict[str, float]:
    """A number with its interval, which is stored next to it."""
    low, high = metrics["interval_95"][key]
    return {"mean": metrics[key], "low": low, "high": high}


def headline(trained: dict[str, Any], made: dict[str, Any], useful: dict[str, Any]) -> dict[str, Any]:
    """The figures that summarise the quality of drawn images, each with its interval."""
    figures = {
        "ce_below_class_unigram": value(trained, "ce_below_class_unigram"),
        "ce_wrong_minus_true": value(trained, "ce_wrong_minus_true"),
        "class_agreement": made["class_agreement"],
        "class_agreement_reconstruction": made["class_agreement_reconstruction"],
        "classifier_accuracy_on_real": value(made, "classifier_accuracy_on_real"),
        "cas_ratio": value(made["cas"], "ratio"),
        "cas_reconstruction": useful["cas_reconstruction"],
        "gain_at_10": useful["gain"]["10"]["gain"],
        "gain_at_30": useful["gain"]["30"]["gain"],
        "gain_at_all": useful["gain"]["all"]["gain"],
        "gain_reconstruction_at_10": useful["gain_reconstruction"]["10"]["gain"],
        "kid_ratio": value(made["kid"], "ratio"),
        # Compared with the same borders in the untouched images. `evaluate_synthesis` also compares with the
        # borders of real defects, which are sharper
        "seam_ratio": value(made["seams"], "inserted_to_canvas"),
        "seam_ratio_without_compositing": value(made["seams"], "pasted_to_canvas"),
        "memorised": value(made["memorisation"], "fake_below"),
        "memorised_by_real_test_images": value(made["memorisation"], "test_below"),
    }
    if "class_agreement_candidates" in made:  # only present if images were chosen among candidates
        figures["class_agreement_candidates"] = made["class_agreement_candidates"]
    return figures


def tokenizer_of_the_run() -> dict[str, Any]:
    """How long this run's tokenizer was fine-tuned, and how well it reconstructs held-out images."""
    after = read_json("metrics/evaluate_vq.json")["after"]
    kept = ("ssim", "lpips", "edge_iou_1px", "rkid_with_grain")
    return {
        "images_seen": read_json("metrics/finetune_vq.json")["images_seen"],
        **{key: after[key] for key in kept if key in after},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="draws of real images (default: %(default)s)")
    parser.add_argument(
        "--synthetic-weights", type=float, nargs="+", default=[1.0, 0.3, 0.1, 0.03],
        help="candidate weights of drawn images (real ones weigh 1); validation images choose one",
    )  # fmt: skip
    add_results_argument(parser, "generation")
    arguments = parser.parse_args()
    missing = [
        path
        for path in (
            "metrics/finetune_vq.json",
            "metrics/evaluate_vq.json",
            "metrics/train_maskgit.json",
            "metrics/evaluate_maskgit.json",
            "metrics/evaluate_synthesis.json",
            "data/synthetic/samples.parquet",
        )
        if not Path(path).is_file()
    ]
    if missing:
        sys.exit(f"no {', '.join(missing)} here: run the pipeline first (make repro)")
    set_threads()
    keep_freed_memory()
    trained = read_json("metrics/train_maskgit.json") | read_json("metrics/evaluate_maskgit.json")
    made = read_json("metrics/evaluate_synthesis.json")
    painter = load_painter(Path("models/vq"), Path("models/maskgit"))
    fake = drawn_images(SYNTHETIC, painter.image_size)
    useful = usefulness(painter, fake, arguments.seeds, arguments.synthetic_weights, 0)
    figures = {name: with_interval(found) for name, found in headline(trained, made, useful).items()}
    details: dict[str, Any] = {
        "train": trained,
        "synthesize": made,
        "usefulness": useful,
        "tokenizer": tokenizer_of_the_run(),
        "extractor": EXTRACTOR,
        "images_seen": trained["images_seen"],
    }
    publish(arguments.results, "generation", figures, details)


if __name__ == "__main__":
    main()
