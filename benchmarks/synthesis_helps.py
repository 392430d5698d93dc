"""`python -m benchmarks.synthesis_helps`: do inserted defects help to set up a detector?

Inserts defects into normal images that the trained detectors have not seen, then makes two decisions: the
threshold, and the model (which detector, with which weights of its two maps). Each is made in three ways:

- `normals`: from normal images alone (the 0.99 quantile; the first detector unchanged),
- `inserted`: from these and the inserted defects (largest balanced accuracy; largest AUROC),
- `real`: in the same way, from the normal images and real defects of a calibration part of the test images.

Each decision is measured on the rest of the real test images, over many random divisions. Scores are kept, so
a killed run resumes. Writes `benchmarks/results/synthesis_helps.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish, with_interval
from metaldefect.artifacts import read_json, sha256_file, write_json
from metaldefect.commands.settings import GeneratedSettings
from metaldefect.commands.sources import insert_into
from metaldefect.efficientad.calibration import maps_of, share_scores
from metaldefect.efficientad.model_files import WEIGHTS, load_detector
from metaldefect.efficientad.torch_model import EfficientAD
from metaldefect.hardware import set_threads
from metaldefect.images import ImageSize, resize
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import (
    GeneratedDatasetProvider,
    InspectionImage,
    RealDatasetProvider,
)
from metaldefect.kernels.switch import cpu_kernels, is_on_cpu
from metaldefect.metrics import detection
from metaldefect.synthesis.insertion import canvases_of

# Weights of the student-teacher map in the anomaly map; the paper uses 0.5.
MAP_WEIGHTS = (0.5, 0.0, 0.25, 0.75, 1.0)
CALIBRATION_SHARE = 0.3
QUANTILE = 0.99  # of the normals' scores, as the threshold that no defect helps to choose
WAYS = ("normals", "inserted", "real")
ScoreArray = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A candidate's scores on the three sets; `labels` are those of the real test images."""

    validation: ScoreArray
    inserted: ScoreArray
    test: ScoreArray
    labels: NDArray[np.str_]

    @property
    def defective(self) -> NDArray[np.bool_]:
        """Which test images are defective, `bool [N]`."""
        return np.asarray(self.labels != GOOD)


@torch.inference_mode()
def score_by_weight(
    model: EfficientAD, images: Iterable[InspectionImage], size: ImageSize
) -> list[list[float]]:
    """For each image, the maximum of the combined map under each of `MAP_WEIGHTS`."""
    maps = [maps_of(model, resize(item.image, size)[None])[0] for item in images]
    return np.stack([share_scores(model, maps, share) for share in MAP_WEIGHTS], axis=1).tolist()


def candidates_of(folder: Path, real: RealDatasetProvider, inserted: Path, work: Path) -> list[Candidate]:
    """A detector's scores under each map weight, computed once and kept in `work`."""
    path = work / f"scores_{sha256_file(folder / WEIGHTS)[:16]}.json"
    if not path.is_file():
        model, config = load_detector(folder)
        defects = GeneratedDatasetProvider(real.root, inserted).defects()
        groups = {"validation": real.validation(), "inserted": defects, "test": real.test()}
        with cpu_kernels(model, enabled=is_on_cpu(model)):
            scores = {
                name: score_by_weight(model, tqdm(images, desc=f"{folder.name}: {name}"), config.image_size)
                for name, images in groups.items()
            }
        write_json(path, scores | {"labels": list(real.test().labels)})
    kept = read_json(path)
    arrays = {name: np.array(kept[name]) for name in ("validation", "inserted", "test")}
    labels = np.array(kept["labels"])
    return [
        Candidate(arrays["validation"][:, k], arrays["inserted"][:, k], arrays["test"][:, k], labels)
        for k in range(len(MAP_WEIGHTS))
    ]


def divide(labels: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which test images are for calibration: a share of each kind of defect, at least one; no normal."""
    chosen = np.zeros(len(labels), bool)
    for kind in sorted(set(labels) - {GOOD}):
        places = np.flatnonzero(labels == kind)
        count = max(1, round(CALIBRATION_SHARE * len(places)))
        chosen[rng.choice(places, count, replace=False)] = True
    return chosen


def against(normal: ScoreArray, defects: ScoreArray) -> tuple[ScoreArray, NDArray[np.bool_]]:
    """The scores of both kinds, joined, and which of them belong to defects."""
    return np.concatenate([normal, defects]), np.arange(len(normal) + len(defects)) >= len(normal)


def thresholds(candidate: Candidate, calibration: NDArray[np.bool_], quantile: float) -> dict[str, float]:
    """The threshold that each way chooses."""
    normal = candidate.validation
    return {
        "normals": float(np.quantile(normal, quantile)),
        "inserted": detection.balanced_threshold(*against(normal, candidate.inserted)),
        "real": detection.balanced_threshold(*against(normal, candidate.test[calibration])),
    }


def selections(candidates: Sequence[Candidate], calibration: NDArray[np.bool_]) -> dict[str, int]:
    """The candidate that each way chooses; normals alone cannot rank candidates and take the first."""
    by_inserted = [detection.auroc(*against(c.validation, c.inserted)) for c in candidates]
    by_real = [detection.auroc(*against(c.validation, c.test[calibration])) for c in candidates]
    return {"normals": 0, "inserted": int(np.argmax(by_inserted)), "real": int(np.argmax(by_real))}


def study(candidates: Sequence[Candidate], quantile: float, divisions: int, seed: int) -> dict[str, Any]:
    """Make both decisions in each way and measure them on the test images not used, over random divisions."""
    first = candidates[0]
    rng = np.random.default_rng(seed)
    threshold_rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    selection_rows: dict[str, list[float]] = {way: [] for way in (*WAYS, "best")}
    agreement = []
    for _ in range(divisions):
        calibration = divide(first.labels, rng)
        rest = ~calibration
        scores, defective = first.test[rest], first.defective[rest]
        for way, threshold in thresholds(first, calibration, quantile).items():
            threshold_rows[way].append(
                {
                    "threshold": threshold,
                    "f1": detection.f1_at(scores, defective, threshold),
                    "balanced_accuracy": detection.balanced_accuracy_at(scores, defective, threshold),
                    "false_alarm_rate": float((scores[~defective] > threshold).mean()),
                    "detection_rate": float((scores[defective] > threshold).mean()),
                }
            )
        truth = [detection.auroc(c.test[rest], defective) for c in candidates]
        for way, index in selections(candidates, calibration).items():
            selection_rows[way].append(truth[index])
        selection_rows["best"].append(max(truth))
        drawn = [detection.auroc(*against(c.validation, c.inserted)) for c in candidates]
        if len(set(drawn)) > 1 and len(set(truth)) > 1:
            agreement.append(float(spearmanr(drawn, truth).statistic))
    return {
        "threshold": {way: summary_of(rows) for way, rows in threshold_rows.items()},
        "model_selection_image_auroc": {way: mean_and_interval(rows) for way, rows in selection_rows.items()},
        # None if all candidates are equally good
        "rank_correlation_inserted_real": mean_and_interval(agreement) if agreement else None,
        "auroc_inserted": detection.auroc(*against(first.validation, first.inserted)),
        "auroc_real": detection.auroc(first.test, first.defective),
    }


def summary_of(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The mean and interval of every number in the rows."""
    return {name: mean_and_interval([row[name] for row in rows]) for name in rows[0]}


def mean_and_interval(values: Sequence[float]) -> dict[str, float]:
    """The mean and the 95 % interval over the divisions."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def table(result: dict[str, Any]) -> str:
    """The study as text for the terminal."""
    lines = [
        f"{'decided from':<12} {'threshold':>10} {'F1':>7} {'bal. acc.':>10} {'false al.':>10} {'found':>7}"
    ]
    for way in WAYS:
        row = {name: value["mean"] for name, value in result["threshold"][way].items()}
        lines.append(
            f"{way:<12} {row['threshold']:>10.4f} {row['f1']:>7.3f} {row['balanced_accuracy']:>10.3f}"
            f" {row['false_alarm_rate']:>10.3f} {row['detection_rate']:>7.3f}"
        )
    chosen = result["model_selection_image_auroc"]
    lines.append(
        "image AUROC of the model chosen: " + ", ".join(f"{w} {chosen[w]['mean']:.3f}" for w in chosen)
    )
    return "\n".join(lines)


def main() -> None:
    """Insert, score, decide, measure, publish."""
    arguments = parse_arguments()
    set_threads()
    real = RealDatasetProvider(arguments.root)
    settings = GeneratedSettings(
        tokenizer=arguments.tokenizer, maskgit=arguments.maskgit, per_class=arguments.per_class
    )
    inserted = arguments.work / "inserted"
    if not inserted.is_dir():
        insert_into(canvases_of(real), settings, arguments.seed, inserted)
    candidates = [
        candidate
        for folder in arguments.detectors
        for candidate in candidates_of(folder, real, inserted, arguments.work)
    ]
    result = study(candidates, QUANTILE, arguments.divisions, arguments.seed) | {
        "candidates": [
            f"{folder.name}, map weight {w}" for folder in arguments.detectors for w in MAP_WEIGHTS
        ],
        "images": {
            "validation": len(candidates[0].validation),
            "inserted": len(candidates[0].inserted),
            "test": len(candidates[0].test),
        },
        "divisions": arguments.divisions,
    }
    print(table(result))
    publish(arguments.results, "synthesis_helps", figures_of(result), result)


def figures_of(result: dict[str, Any]) -> dict[str, Any]:
    """The study as flat figures `<metric>_<way>`, each with its interval."""
    figures: dict[str, Any] = {key: result[key] for key in ("auroc_inserted", "auroc_real")}
    for way, row in result["threshold"].items():
        figures |= {f"{name}_{way}": with_interval(value) for name, value in row.items()}
    for way, value in result["model_selection_image_auroc"].items():
        figures[f"image_auroc_of_choice_{way}"] = with_interval(value)
    return figures


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthesis_helps", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=Path("data/merged/inspection"), help="a prepared dataset"
    )
    parser.add_argument(
        "--detectors", type=Path, nargs="+", default=[Path("models/detector")],
        help="trained detectors; the threshold study uses the first",
    )  # fmt: skip
    parser.add_argument("--tokenizer", type=Path, default=Path("models/vq"))
    parser.add_argument("--maskgit", type=Path, default=Path("models/maskgit"))
    parser.add_argument("--per-class", type=int, default=20, help="inserted defects of each class")
    parser.add_argument("--divisions", type=int, default=50, help="random divisions of the test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=Path("data/synthesis_helps"), help="folder for insertions and scores"
    )
    add_results_argument(parser, "synthesis_helps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
