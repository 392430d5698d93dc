"""Stage `evaluate_vq`: reconstruction of held-out images before, during and after training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.figures import save_figures
from metaldefect.ingest.loading import held_out_rows, load_images
from metaldefect.synthesis.grain import Grain
from metaldefect.tokenizer.checkpoints import CONFIG, load_tokenizer
from metaldefect.tokenizer.evaluation import (
    Distance,
    constant_image_scores,
    gains,
    learning_curve,
    per_class,
    reconstruct,
    rkid_with_grain,
    summarise,
    why_no_rkid,
)
from metaldefect.tokenizer.figures import curve_figure, reconstruction_figures
from metaldefect.training.snapshot_files import load_snapshot, spread_snapshots
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "evaluate_vq"
MERGED = Path("data/merged")
MODEL = Path("models/vq")


def main(params: Params, run: StageRun) -> None:
    """Measure the first and last weights on test images, and the snapshots on validation images."""
    section = params.evaluate_vq
    about = read_json(MODEL / CONFIG)
    size = int(about["image_size"])
    model = load_tokenizer(MODEL)
    channels = model.config.image_channels
    table = held_out_rows(MERGED, "test", section.images)
    scenes = table["scene"].tolist()
    test = load_images(MERGED, table, size, "test images", channels)
    distance = Distance.named(section.perceptual)
    along = spread_snapshots(MODEL, section.curve_points)

    codes = model.config.codebook_size
    after = reconstruct(model, test, distance)
    summary_after = summarise(after, test, table, codes)
    grain = Grain.load(MODEL)
    no_rkid = why_no_rkid(scenes)
    if grain is not None and not no_rkid:
        summary_after["rkid_with_grain"] = rkid_with_grain(model, grain, test, scenes)
    load_snapshot(model, along[0])
    before = reconstruct(model, test, distance)
    validation = held_out_rows(MERGED, "validation", section.curve_images)
    curve = learning_curve(
        model,
        along,
        load_images(MERGED, validation, size, "validation images", channels),
        distance,
        int(about["batch_size"]),
    )
    metrics = {
        "before": summarise(before, test, table, codes),
        "after": summary_after,
        "gain": gains(before.scores, after.scores, scenes),
        "per_class": per_class(after.scores, table["label"].tolist()),
        "constant_image": constant_image_scores(test),
        # Those of a codebook that has not moved: all
        "tokens_unchanged": float((before.tokens == after.tokens).mean()),
        "test_images": len(table),
        "left_out": distance.left_out(section.perceptual) | no_rkid,
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    figures = reconstruction_figures(test, before.images, after.images, table, after.scores["ssim"].tolist())
    figures["quality_against_images_seen"] = curve_figure(curve)
    with atomic_directory(f"plots/{STAGE}") as directory:
        pd.DataFrame(curve).to_csv(directory / "curve.csv", index=False, float_format="%.6g")
        save_figures(figures, directory)
    run.log_figures(figures)


if __name__ == "__main__":
    run_stage(STAGE, main)
