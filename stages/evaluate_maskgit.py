"""Stage `evaluate_maskgit`: how well MaskGIT predicts held-out tokens, during and after its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.figures import save_figures
from metaldefect.hardware import keep_freed_memory
from metaldefect.maskgit.checkpoints import CONFIG, load_maskgit
from metaldefect.maskgit.evaluation import learning_curve, measure, token_statistics
from metaldefect.maskgit.figures import class_samples, cross_entropy_figure, curve_figure, entropy_figure
from metaldefect.maskgit.token_data import TokenGrids
from metaldefect.synthesis.painter import load_painter
from metaldefect.training.snapshot_files import load_snapshot, spread_snapshots
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "evaluate_maskgit"
TRAIN, HELD_OUT = Path("data/tokens/train"), Path("data/tokens/held_out")
TOKENIZER, MODEL = Path("models/vq"), Path("models/maskgit")


def main(params: Params, run: StageRun) -> None:
    """Measure the final weights on test tokens and the snapshots on validation tokens."""
    keep_freed_memory()
    section = params.evaluate_maskgit
    about = read_json(MODEL / CONFIG)
    classes = about["classes"]
    painter = load_painter(TOKENIZER, MODEL)
    model = load_maskgit(MODEL)
    train = TokenGrids.training(TRAIN, classes)
    test = TokenGrids.held_out(HELD_OUT, "test", classes).spread(section.images)
    metrics = {
        **measure(model, train, test, params.seed),
        "tokens": token_statistics(train, model.config.codebook_size),
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)

    figures = {
        "samples_per_class": class_samples(painter, params.seed),
        "cross_entropy_per_mask_ratio": cross_entropy_figure(metrics),
        "token_entropy_per_class": entropy_figure(metrics["tokens"]["entropy_per_class"]),
    }
    files = spread_snapshots(MODEL, section.curve_points)
    validation = TokenGrids.held_out(HELD_OUT, "validation", classes).spread(section.curve_images)
    curve = learning_curve(model, files, validation, params.seed, int(about["batch_size"]))
    for step, path in list(files.items())[1:-1]:
        load_snapshot(model, path)
        figures[f"samples_at_{step:06d}"] = class_samples(replace(painter, maskgit=model), params.seed)
    unigrams = metrics["unigram"], metrics["class_unigram"]
    figures["cross_entropy_against_images_seen"] = curve_figure(curve, *unigrams)
    with atomic_directory(f"plots/{STAGE}") as directory:
        pd.DataFrame(curve).to_csv(directory / "curve.csv", index=False, float_format="%.6g")
        save_figures(figures, directory)
    run.log_figures(figures)


if __name__ == "__main__":
    run_stage(STAGE, main)
