"""`python -m benchmarks.methods`: drawn, copied and painted defects, compared on a finished run.

Real defects of the training split give the masks. Each goes to a free place, and the three methods fill it
there: the models draw, the real defect is copied, paint is applied. A mask counts only if all three can be
seen, so every method has the same number of images with the same masks in the same places. Then:

- `f1`: the threshold of the run's detector that separates validation normals from a method's insertions into
  normal images (largest balanced accuracy), and its F1 on the real test images. `normals` is the 0.99
  quantile of the validation normals, without any insertion.
- `gain`: what a method's crops add to 10 real crops per class, as accuracy on crops of real test defects.
  They are inserted into other photographs of their class; validation crops choose their weight.
- `realism`: the two-sample test of `metrics/evaluate_synthesis.json`, where the run has it.

MaskGIT was trained on the training split, and the copies come from it, so both know more than 10 real
defects per class. Drawing counts as better or worse than another method only where the 95 % interval of the
difference excludes 0 (of realism: where the two intervals do not overlap). Writes
`benchmarks/results/methods.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish, with_interval
from metaldefect.artifacts import read_json
from metaldefect.backbones import pooled_features
from metaldefect.efficientad.model_files import load_detector
from metaldefect.efficientad.torch_model import EfficientAD, infer
from metaldefect.errors import UserError, exit_on_user_error
from metaldefect.hardware import keep_freed_memory, set_threads
from metaldefect.images import U8, ImageSize, as_channels, resize
from metaldefect.ingest.loading import split_rows, spread_over_classes
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.kernels.switch import cpu_kernels, is_on_cpu
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.metrics import detection
from metaldefect.metrics.generation_suite import Labelled
from metaldefect.metrics.usefulness import chosen_weight, gain_hits, seed_and_group_interval
from metaldefect.procedural.images import keyed_generator
from metaldefect.synthesis.evaluation import GAIN_DRAWS, GAIN_WEIGHTS
from metaldefect.synthesis.insertion import canvases_of
from metaldefect.synthesis.painter import Painter, load_painter
from metaldefect.synthesis.photographs import Photograph, as_photograph
from metaldefect.synthesis.realism import (
    METRICS,
    Original,
    Place,
    crop_around,
    find_originals,
    find_place,
    find_places,
    photographs_with,
)

METHODS = tuple(METRICS)  # drawn, copy_paste, procedural
DRAWN, OTHERS = METHODS[0], METHODS[1:]
QUANTILE = 0.99  # of validation normals: the threshold without insertions
CANVASES = 20  # normal images that are tried for a free place
FEWEST = 3  # masks, below which nothing is measured
Scores = NDArray[np.float64]


class MethodImages(NamedTuple):
    """Masks in their places, and each method's photographs, in the same order."""

    pairs: list[tuple[Original, Place]]
    photographs: dict[str, list[Photograph]]

    def crops(self, method: str) -> U8:
        """The squares around the masks, `uint8 [N, 128, 128]` or `[N, 128, 128, 3]`."""
        crops = []
        for photograph, (_, place) in zip(self.photographs[method], self.pairs, strict=True):
            assert place.spot.mask is not None
            crops.append(crop_around(photograph, place.spot.mask))
        return np.stack(crops)


def insert_with_all(
    pairs: list[tuple[Original, Place]], painter: Painter, sampling: SamplingConfig, seed: int
) -> MethodImages:
    """Fill every place with every method; masks that one of them leaves invisible are dropped."""
    made = {method: photographs_with(method, pairs, painter, sampling, seed) for method in METHODS}
    everywhere = [
        number for number in range(len(pairs)) if all(made[method][number] is not None for method in METHODS)
    ]
    photographs = {
        method: [one for number in everywhere if (one := found[number]) is not None]
        for method, found in made.items()
    }
    return MethodImages([pairs[number] for number in everywhere], photographs)


def on_normal_images(
    originals: Sequence[Original], provider: RealDatasetProvider, painter: Painter, seed: int
) -> list[tuple[Original, Place]]:
    """A free place for each mask in a normal image that neither trains nor tests the detector."""
    canvases = [canvas for canvas in canvases_of(provider) if canvas.split != "test"]
    pairs = []
    for number, one in enumerate(originals):
        rng = keyed_generator(seed, "methods", number)
        for index in rng.permutation(len(canvases))[:CANVASES]:
            image = as_channels(canvases[int(index)].image, painter.channels)
            place = find_place(as_photograph(image), np.zeros(image.shape[:2], bool), one, rng)
            if place is not None:
                pairs.append((one, place))
                break
    return pairs


@torch.inference_mode()
def scores_of(model: EfficientAD, images: Sequence[U8], size: ImageSize, channels: Any, what: str) -> Scores:
    """The detector's score of each image."""
    with cpu_kernels(model, enabled=is_on_cpu(model)):
        return np.array(
            [
                infer(model, resize(as_channels(image, channels), size))[0]
                for image in tqdm(images, desc=what, unit="image")
            ]
        )


def calibration_study(
    normal: Scores,
    inserted: Mapping[str, Scores],
    test: Scores,
    defective: NDArray[np.bool_],
    scenes: Sequence[str],
) -> dict[str, Any]:
    """F1 on test images at the threshold of each method, and how much drawing's exceeds the others'.

    Args:
        normal: scores of validation normals.
        inserted: scores of each method's insertions.
        test: scores of the test images.
        defective: which of these are defects.
        scenes: theirs; intervals resample whole scenes.
    """
    thresholds = {"normals": float(np.quantile(normal, QUANTILE))}
    for method, scores in inserted.items():
        truth = np.arange(len(normal) + len(scores)) >= len(normal)
        thresholds[method] = detection.balanced_threshold(np.concatenate([normal, scores]), truth)

    def measured(statistic: Any) -> dict[str, float]:
        low, high = detection.bootstrap_interval(statistic, test, defective, scenes)
        return {"mean": statistic(test, defective), "low": low, "high": high}

    def f1(threshold: float) -> dict[str, float]:
        return measured(lambda scores, labels: detection.f1_at(scores, labels, threshold))

    def exceeds(other: str) -> dict[str, float]:
        here, there = thresholds[DRAWN], thresholds[other]
        return measured(
            lambda scores, labels: (
                detection.f1_at(scores, labels, here) - detection.f1_at(scores, labels, there)
            )
        )

    return {
        "thresholds": thresholds,
        "values": {name: f1(threshold) for name, threshold in thresholds.items()},
        "drawn_minus": {other: exceeds(other) for other in OTHERS},
    }


def gain_study(
    real: Mapping[str, Labelled], inserted: Mapping[str, Labelled], per_class: int, seed: int
) -> dict[str, Any]:
    """What each method's crops add to a few real ones, and how much drawing adds beyond the others.

    Args:
        real: crops of real defects: `train`, `validation`, `test`.
        inserted: crops by method, of the same masks.
        per_class: real crops per class.
        seed: of the first draw of real crops.
    """
    train, validation, test = ((real[k].features, real[k].labels) for k in ("train", "validation", "test"))
    draws = range(seed, seed + GAIN_DRAWS)
    both, values, weights = {}, {}, {}
    for method, crops in inserted.items():
        added = (crops.features, crops.labels)
        weights[method] = chosen_weight(train, added, validation, per_class, draws, GAIN_WEIGHTS)
        alone, both[method] = gain_hits(train, added, test, per_class, draws, weights[method])
        values[method] = seed_and_group_interval(both[method] - alone, real["test"].groups)
    return {
        "weights": weights,
        "values": values,
        "drawn_minus": {
            other: seed_and_group_interval(both[DRAWN] - both[other], real["test"].groups) for other in OTHERS
        },
    }


def real_crops(originals: Sequence[Original]) -> Labelled:
    """Features of the squares around real defects."""
    crops = np.stack([crop_around(one.photograph, one.mask) for one in originals])
    labels = np.array([one.label for one in originals])
    return Labelled(pooled_features(crops), labels, np.array([one.scene for one in originals]))


def originals_of(merged: Path, split: str, painter: Painter, limit: int) -> list[Original]:
    """Up to `limit` whole real defects of a split with free metal around them, spread over classes."""
    rows = split_rows(merged, split)
    rows = rows[rows["mask_path"].notna()].reset_index(drop=True)
    return find_originals(merged, spread_over_classes(rows, limit), limit, painter.channels)


def verdict(difference: Mapping[str, float]) -> str:
    """Whether drawing is better, by an interval of its lead."""
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "no difference shown"


def realism_verdict(drawn: Mapping[str, float], other: Mapping[str, float]) -> str:
    """Whether drawn insertions are harder to tell from real defects: their AUROC is lower."""
    return verdict({"low": other["low"] - drawn["high"], "high": other["high"] - drawn["low"]})


def compare(root: Path, defects: int, per_class: int, seed: int) -> dict[str, Any]:
    """Both studies on the run in `root`, and the realism that it measured.

    Args:
        root: folder of a finished run.
        defects: real defects at most, per split.
        per_class: real crops per class of the gain.
        seed: of everything random.

    Raises:
        UserError: the run is not finished, or fewer than `FEWEST` masks are filled visibly by all methods.
    """
    merged = root / "data/merged"
    for needed in (merged, root / "models/vq", root / "models/maskgit", root / "models/detector"):
        if not needed.is_dir():
            raise UserError(
                f"{needed} does not exist: run the pipeline first (make repro), or name its --root"
            )
    painter = load_painter(root / "models/vq", root / "models/maskgit")
    sampling = SamplingConfig(**read_json(root / "data/synthetic/config.json")["sampling"])
    train = originals_of(merged, "train", painter, defects)
    return {
        "f1": compare_calibration(root, merged, train, painter, sampling, seed),
        "gain": compare_gain(merged, train, painter, sampling, defects, per_class, seed),
        "realism": read_realism(root),
    }


def compare_calibration(
    root: Path,
    merged: Path,
    originals: Sequence[Original],
    painter: Painter,
    sampling: SamplingConfig,
    seed: int,
) -> dict[str, Any]:
    """`calibration_study` of the run's detector, with the number of images as `images`."""
    model, config = load_detector(root / "models/detector")
    provider = RealDatasetProvider(merged / "inspection", channels=3)
    inserted = insert_with_all(on_normal_images(originals, provider, painter, seed), painter, sampling, seed)
    require(inserted, "normal images")
    test, size, channels = provider.test(), config.image_size, config.channels
    scored = {
        method: scores_of(model, [one.pixels.astype(np.uint8) for one in photographs], size, channels, method)
        for method, photographs in inserted.photographs.items()
    }
    normal = scores_of(model, [one.image for one in provider.validation()], size, channels, "normals")
    items = list(test)
    scores = scores_of(model, [one.image for one in items], size, channels, "test images")
    defective = np.array([one.label != GOOD for one in items])
    study = calibration_study(normal, scored, scores, defective, [one.scene for one in items])
    return study | {"images": len(inserted.pairs)}


def compare_gain(
    merged: Path,
    train: Sequence[Original],
    painter: Painter,
    sampling: SamplingConfig,
    defects: int,
    per_class: int,
    seed: int,
) -> dict[str, Any]:
    """`gain_study` with the number of images as `images`; `left_out` with the reason where it cannot be."""
    real = {"train": list(train)} | {
        split: originals_of(merged, split, painter, defects) for split in ("validation", "test")
    }
    for split, found in real.items():
        if len({one.label for one in found}) < 2:
            return {"left_out": f"masked defects of fewer than two classes in the {split} split"}
    rows = split_rows(merged, "train")
    rows = rows[rows["mask_path"].notna()].reset_index(drop=True)
    places = find_places(merged, rows, list(train), seed, painter.channels)
    pairs = [(one, place) for one, place in zip(train, places, strict=True) if place is not None]
    inserted = insert_with_all(pairs, painter, sampling, seed)
    require(inserted, "photographs of their classes")
    labels = np.array([one.label for one, _ in inserted.pairs])
    crops = {
        method: Labelled.ungrouped(pooled_features(inserted.crops(method)), labels) for method in METHODS
    }
    study = gain_study({split: real_crops(found) for split, found in real.items()}, crops, per_class, seed)
    return study | {"images": len(labels)}


def require(inserted: MethodImages, where: str) -> None:
    """Refuse to compare by a handful of images."""
    if len(inserted.pairs) < FEWEST:
        raise UserError(
            f"defects of all methods can be seen under {len(inserted.pairs)} masks in {where}, {FEWEST} are"
            " needed"
        )


def read_realism(root: Path) -> dict[str, Any]:
    """AUROC by method from the run's metrics; empty if it measured none."""
    path = root / "metrics/evaluate_synthesis.json"
    found = read_json(path).get("realism", {}) if path.is_file() else {}
    return {method: found[name] for method, name in METRICS.items() if name in found}


def verdicts_of(result: Mapping[str, Any]) -> dict[str, str]:
    """`<figure>, against <method>` -> better, worse, or no difference shown: of drawing."""
    found = {}
    for figure, other in product(("f1", "gain"), OTHERS):
        if "drawn_minus" in result[figure]:
            found[f"{figure}, against {other}"] = verdict(result[figure]["drawn_minus"][other])
    realism = result["realism"]
    for other in OTHERS:
        if DRAWN in realism and other in realism:
            found[f"realism, against {other}"] = realism_verdict(realism[DRAWN], realism[other])
    return found


def figures_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Flat figures `<figure>_<method>` and `<figure>_drawn_minus_<method>`, each with its interval."""
    figures: dict[str, Any] = {}
    for name in ("f1", "gain"):
        study = result[name]
        if "values" not in study:
            continue
        figures[f"{name}_images"] = study["images"]
        figures |= {f"{name}_{method}": with_interval(value) for method, value in study["values"].items()}
        for other, value in study["drawn_minus"].items():
            figures[f"{name}_drawn_minus_{other}"] = with_interval(value)
    return figures | {
        f"realism_{method}": with_interval(value) for method, value in result["realism"].items()
    }


def table(result: Mapping[str, Any]) -> str:
    """The comparison as text for the terminal, ending with where drawing is better and where it is not."""
    lines = [f"{'':<12}{'F1':>22}{'gain at 10':>24}{'realism AUROC':>22}"]

    def cell(value: Mapping[str, float] | None) -> str:
        return "–" if value is None else f"{value['mean']:.3f} ({value['low']:.3f}-{value['high']:.3f})"

    for method in ("normals", *METHODS):
        cells = [result[name].get("values", {}).get(method) for name in ("f1", "gain")]
        f1, gain, realism = (cell(value) for value in (*cells, result["realism"].get(method)))
        lines.append(f"{method:<12}{f1:>22}{gain:>24}{realism:>22}")
    lines += [f"drawing by {name}: {words}" for name, words in verdicts_of(result).items()]
    if "left_out" in result["gain"]:
        lines.append(f"gain: not measured: {result['gain']['left_out']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="folder of a finished run (default: this)")
    parser.add_argument(
        "--defects", type=int, default=120, help="real defects at most, per split (default: %(default)s)"
    )
    parser.add_argument(
        "--per-class", type=int, default=10, help="real crops per class (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    add_results_argument(parser, "methods")
    arguments = parser.parse_args()
    set_threads()
    keep_freed_memory()
    with exit_on_user_error(parser.prog):
        result = compare(arguments.root, arguments.defects, arguments.per_class, arguments.seed)
    print(table(result))
    details = dict(result) | {"verdicts": verdicts_of(result)}
    publish(arguments.results, "methods", figures_of(result), details)


if __name__ == "__main__":
    main()
