"""Stage `evaluate_efficientad`: how well the detector and a memory bank find real and inserted defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.efficientad.calibration import with_papers_score
from metaldefect.efficientad.decision_figures import threshold_figures
from metaldefect.efficientad.evaluation import (
    papers_metrics,
    pro_table,
    rounded,
    score_table,
    score_test_images,
    summarise,
)
from metaldefect.efficientad.figures import (
    detector_figures,
    insertion_figure,
    map_weight_figure,
    training_figure,
)
from metaldefect.efficientad.memory_bank import (
    auroc_difference,
    available_features,
    bank_metrics,
    compare_with_bank,
    fill_bank,
    score_with_bank,
)
from metaldefect.efficientad.model_files import (
    CONFIG,
    PAPERS,
    TRAINED,
    load_detector,
    load_networks,
    read_papers_score,
    read_scores,
)
from metaldefect.efficientad.thresholds import Target
from metaldefect.efficientad.training_sets import resized_images
from metaldefect.figures import save_figures
from metaldefect.images import read_image
from metaldefect.inspection.provider import GeneratedDatasetProvider, RealDatasetProvider
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

DETECTOR = Path("models/detector")
NETWORKS = Path("models/efficientad")
INSPECTION = Path("data/merged/inspection")
INSERTED = Path("data/synthetic/inserted")
METRICS = Path("metrics/evaluate_efficientad.json")
PLOTS = Path("plots/evaluate_efficientad")
TABLES = "tables"


def main(params: Params, run: StageRun) -> None:
    """Measure on the real test set and on the inserted defects that calibration did not use."""
    samples = params.evaluate_efficientad.bootstrap_samples
    model, config = load_detector(DETECTOR)
    record, papers = read_json(DETECTOR / CONFIG)["calibration"], read_papers_score(DETECTOR)
    real = RealDatasetProvider(INSPECTION, config.channels)
    sets = {"test defects": real.test()}
    generated = GeneratedDatasetProvider(INSPECTION, INSERTED, config.channels)
    inserted = generated.test()
    if len(set(inserted.labels)) > 1:
        sets["generated defects"] = inserted
    groups = {
        name: score_test_images(model, images, config.image_size, f"score {name}")
        for name, images in sets.items()
    }
    summaries = {
        name: summarise(scored, config.threshold, params.seed, samples) for name, scored in groups.items()
    }
    for names, reason in summaries["test defects"]["left_out"].items():
        print(f"not measured: {names}: {reason}")
    bank = fill_bank(
        resized_images(real.train(), config.image_size, config.channels),
        available_features(model.teacher),
        params.seed,
    )
    with_bank = score_with_bank(bank, sets["test defects"], config.image_size)
    of_bank = bank_metrics(bank, with_bank, params.seed, samples)
    difference = auroc_difference(groups["test defects"], with_bank, params.seed, samples)
    compared = compare_with_bank(summaries["test defects"], of_bank, difference)
    print(compared["verdict"])
    metrics: dict[str, Any] = {
        **summaries["test defects"],
        "generated": summaries.get("generated defects", "no insertion for the test is visible"),
        "threshold": config.threshold,
        PAPERS: papers_metrics(
            summaries["test defects"],
            papers,
            lambda: score_test_images(
                with_papers_score(load_networks(NETWORKS)[0], papers),
                sets["test defects"],
                config.image_size,
                "the paper's score",
            ),
        ),
        "memory_bank": compared,
    }
    validation, target = read_scores(DETECTOR)[TRAINED], Target(**record["threshold"]["target"])
    losses = pd.read_csv(NETWORKS / "losses.csv")
    figures = {
        **detector_figures(groups, config.threshold, with_bank, validation.normals),
        **threshold_figures(validation, config.threshold, target),
        "training_losses": training_figure({str(name): losses[name].tolist() for name in losses}),
    }
    if found := [item for item in groups.get("generated defects", []) if item.is_defective]:
        canvases = (read_image(path, config.channels) for path in generated.test_canvases())
        figures["from_good_metal_to_a_found_defect"] = insertion_figure(found, canvases, config.threshold)
    weights = record["map_weights"]
    if "image_auroc_by_student_share" in weights:
        figures["map_weights"] = map_weight_figure(
            weights["image_auroc_by_student_share"], weights["student"]
        )
    with atomic_directory(PLOTS) as folder:
        save_figures(figures, folder)
        # The report draws its own curves from these
        (folder / TABLES).mkdir()
        scored = groups | {"memory bank, no training": with_bank}
        score_table(scored).to_csv(folder / TABLES / "scores.csv", index=False)
        pro_table(scored).to_csv(folder / TABLES / "pro_curve.csv", index=False)
    run.log_figures(figures)
    metrics = rounded(metrics)
    write_json(METRICS, metrics)
    run.log_metrics(metrics)


if __name__ == "__main__":
    run_stage("evaluate_efficientad", main)
