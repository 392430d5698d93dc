"""Fine-tune the tokenizer on augmented metal and measure it before and after on held-out images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.backbones import pooled_features
from metaldefect.hardware import autocast
from metaldefect.images import U8, from_tanh_range, to_tanh_range
from metaldefect.metrics.bootstrap import bootstrap_mean
from metaldefect.metrics.generation import kid
from metaldefect.metrics.reconstruction import codebook_use, edge_iou, edges, psnr, ssim
from metaldefect.tokenizer.checkpoints import load_base, save_tokenizer
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.lightning_module import VQLightning, VQTrainingConfig
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.perceptual import perceptual_loss
from metaldefect.training import fit
from stages.figures import image_grid, save_figure
from stages.images import held_out, load_images
from stages.params import Params
from stages.run import StageRun, run_stage

STAGE = "finetune_vq"
PER_IMAGE = ("ssim", "psnr", "edge_iou", "edge_iou_1px", "lpips")


def main(params: Params, run: StageRun) -> None:
    section = params.finetune_vq
    size = section.tokenizer.image_size
    config = named_config(section.tokenizer.name, section.tokenizer.codebook_size)
    config.grid(size)
    model = load_base(section.tokenizer.base, config)

    train = pd.read_parquet("data/augmented/samples.parquet")
    table = held_out(Path("data/merged"), section.evaluate_images)
    test = load_images(Path("data/merged"), table, size, "held-out images")
    images = load_images(Path("data/augmented"), train, size, "training images")

    torch.manual_seed(params.seed)
    training = VQTrainingConfig(**training_arguments(params))
    module = VQLightning(model, training)
    distance = module.perceptual_name
    before, before_images = evaluate(model, test, table, section.training.perceptual)
    model.train()
    history = fit(
        module,
        torch.from_numpy(images),  # type: ignore[arg-type]
        steps=section.training.steps,
        batch_size=section.training.batch_size,
        epoch_steps=section.training.checkpoint_steps,
        seed=params.seed,
        checkpoint_directory=run.checkpoint_directory,
    )
    module.average.copy_to(model)
    after, after_images = evaluate(model, test, table, section.training.perceptual)

    with atomic_directory("models/vq") as directory:
        save_tokenizer(model, directory, {"image_size": size, "perceptual": distance})
    metrics = {
        "before": before["all"],
        "after": after["all"],
        "per_class": {name: values for name, values in after.items() if name != "all"},
        "base": section.tokenizer.base,
        "perceptual": distance,
        "train_images": len(train),
        "images_seen": section.training.steps * section.training.batch_size,
        "held_out_images": len(table),
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    run.log_history(history)
    plot(run, test, table, before_images, after_images, history)


def training_arguments(params: Params) -> dict[str, Any]:
    """The stage's training section, less what `fit` takes."""
    arguments = params.finetune_vq.training.model_dump()
    for name in ("batch_size", "checkpoint_steps"):
        del arguments[name]
    arguments["data_initialised_codebook"] = params.finetune_vq.tokenizer.base == "none"
    return arguments


def evaluate(model: VQModel, images: U8, table: pd.DataFrame, perceptual: str) -> tuple[dict[str, Any], U8]:
    """Metrics of the reconstructions, overall (with intervals by group) and per class; and the images."""
    model.eval()
    distance = perceptual_loss(perceptual)[0]
    found, tokens, rows = [], [], []
    for start in range(0, len(images), 8):
        batch = to_tanh_range(images[start : start + 8])
        with torch.no_grad(), autocast():
            codes = model.encode(batch)
            decoded = model.decode(codes)
        with torch.no_grad():
            lpips = distance(decoded.float().clamp(-1, 1), batch.contiguous()).tolist()
        part = from_tanh_range(decoded)
        found.append(part)
        tokens.append(codes.numpy())
        for image, reference, value in zip(part, images[start : start + 8], lpips, strict=True):
            row = (
                ssim(image, reference),
                psnr(image, reference),
                edge_iou(image, reference),
                edge_iou(image, reference, 1),
                value,
            )
            rows.append(dict(zip(PER_IMAGE, row, strict=True)))
    reconstructions: U8 = np.concatenate(found)
    scores = pd.DataFrame(rows)
    groups = table["group"].tolist()
    result: dict[str, Any] = {
        "all": {name: bootstrap_mean(scores[name], groups) for name in PER_IMAGE}
        | {"codebook": codebook_use(np.concatenate(tokens), model.config.codebook_size)}
        | {"rkid": kid(pooled_features(images), pooled_features(reconstructions))}
    }
    for label in sorted(table["label"].unique()):
        chosen = (table["label"] == label).to_numpy()
        result[label] = {name: float(scores[name][chosen].mean()) for name in PER_IMAGE}
    return result, reconstructions


def plot(
    run: StageRun,
    images: U8,
    table: pd.DataFrame,
    before: U8,
    after: U8,
    history: list[dict[str, float]],
) -> None:
    """Reconstruction pairs, edge maps, worst cases and loss curves."""
    with atomic_directory(f"plots/{STAGE}") as directory:
        first = [int(np.flatnonzero(table["label"] == label)[0]) for label in sorted(table["label"].unique())]
        figures = {
            "reconstructions_original_before_after": triples(images, before, after, first, table),
            "edge_maps_original_before_after": triples(
                edge_image(images), edge_image(before), edge_image(after), first, table
            ),
            "worst_cases_original_before_after": triples(
                images, before, after, worst(images, after, 4), table
            ),
        }
        for name, figure in figures.items():
            save_figure(figure, directory / f"{name}.png")
            run.log_figure(figure, f"{name}.png")
        if history:
            pd.DataFrame(history).to_csv(directory / "losses.csv", index=False)


def triples(a: U8, b: U8, c: U8, chosen: list[int], table: pd.DataFrame) -> Any:
    """Rows of original, before, after."""
    rows = [[a[i], b[i], c[i]] for i in chosen]
    labels = [str(table["label"].iloc[i]) for i in chosen]
    return image_grid(rows, labels, ["original", "before", "after"], cell=1.8)


def edge_image(images: U8) -> NDArray[np.uint8]:
    """Canny edges as white on black."""
    return np.stack([edges(image).astype(np.uint8) * 255 for image in images])


def worst(images: U8, after: U8, count: int) -> list[int]:
    """Numbers of the images with the lowest SSIM."""
    scores = [ssim(a, b) for a, b in zip(after, images, strict=True)]
    return np.argsort(scores)[:count].tolist()


if __name__ == "__main__":
    run_stage(STAGE, main)
