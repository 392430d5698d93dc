"""Fine-tune the tokenizer on augmented metal and measure it before and after on held-out images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.backbones import pooled_features
from metaldefect.hardware import autocast, device, device_of
from metaldefect.images import U8, from_tanh_range, grey_levels, to_tanh_range, to_u8
from metaldefect.metrics.bootstrap import bootstrap_mean, half_sample_interval
from metaldefect.metrics.generation import kid
from metaldefect.metrics.reconstruction import codebook_use, edge_iou, edges, psnr, ssim
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.grain import Grain
from metaldefect.tokenizer.checkpoints import load_base, save_tokenizer
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.lightning_module import VQLightning, VQTrainingConfig
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import start_from_images
from metaldefect.tokenizer.perceptual import perceptual_loss
from metaldefect.training.trainer import fit
from pipeline.figures import image_grid, save_figure
from pipeline.images import held_out, load_images
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "finetune_vq"
START_IMAGES = 1000  # images behind the closed-form start of fresh weights
GRAIN_IMAGES = 600  # images on which the tokenizer's residual is measured
PER_IMAGE = ("ssim", "psnr", "edge_iou", "edge_iou_1px", "lpips")


def main(params: Params, run: StageRun) -> None:
    section = params.finetune_vq
    size = section.tokenizer.image_size
    config = named_config(section.tokenizer.name, section.tokenizer.codebook_size)
    config.grid(size)
    model = load_base(section.tokenizer.base, config)
    fresh = section.tokenizer.base == "none"

    train = pd.read_parquet("data/augmented/samples.parquet")
    table = held_out(Path("data/merged"), section.evaluate_images)
    test = load_images(Path("data/merged"), table, size, "held-out images")
    images = load_images(Path("data/augmented"), train, size, "training images")

    torch.manual_seed(params.seed)
    if fresh and config.patch_path:
        chosen = np.random.default_rng(params.seed).permutation(len(images))[:START_IMAGES]
        start_from_images(model, images[chosen], params.seed)
    training = VQTrainingConfig(**training_arguments(params))
    module = VQLightning(model, training)
    distance = module.perceptual_name
    before, before_scores, before_images = evaluate(model, test, table, section.training.perceptual)
    model.train()
    validation = held_out(Path("data/merged"), section.curve_images, ("validation",))
    curve = Curve(
        load_images(Path("data/merged"), validation, size, "validation images"),
        section.training.perceptual,
        section.curve_points,
        section.training.batch_size,
    )
    history = fit(
        module,
        torch.from_numpy(images),  # type: ignore[arg-type]
        steps=section.training.steps,
        batch_size=section.training.batch_size,
        epoch_steps=section.training.checkpoint_steps,
        seed=params.seed,
        checkpoint_directory=run.checkpoint_directory,
        watchers=[curve],
    )
    module.average.copy_to(model)
    after, after_scores, after_images = evaluate(model, test, table, section.training.perceptual)

    with atomic_directory("models/vq") as directory:
        save_tokenizer(model, directory, {"image_size": size, "perceptual": distance})
        chosen = np.random.default_rng(params.seed).permutation(len(images))[:GRAIN_IMAGES]
        grain = residual_grain(model, images[np.sort(chosen)])
        grain.save(directory)
    after["all"]["rkid_with_grain"] = rkid_with_grain(model, grain, test, table["group"].tolist())
    metrics = {
        "before": before["all"],
        "after": after["all"],
        "gain": gains(before_scores, after_scores, table["group"].tolist()),
        "per_class": {name: values for name, values in after.items() if name != "all"},
        "base": section.tokenizer.base,
        "perceptual": distance,
        "train_images": len(train),
        "images_seen": section.training.steps * section.training.batch_size,
        "held_out_images": len(table),
        "curve": {str(int(row["images_seen"])): drop(row, "images_seen") for row in curve.rows},
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    run.log_history(history)
    plot(run, test, table, before_images, after_images, history, curve.rows)


def training_arguments(params: Params) -> dict[str, Any]:
    """The stage's training section, less what `fit` takes."""
    arguments = params.finetune_vq.training.model_dump()
    for name in ("batch_size", "checkpoint_steps"):
        del arguments[name]
    tokenizer = params.finetune_vq.tokenizer
    patch_path = named_config(tokenizer.name).patch_path
    arguments["data_initialised_codebook"] = tokenizer.base == "none" and not patch_path
    return arguments


def evaluate(
    model: VQModel, images: U8, table: pd.DataFrame, perceptual: str
) -> tuple[dict[str, Any], pd.DataFrame, U8]:
    """(metrics, scores per image, reconstructions).

    The metrics are overall, with intervals by group, and per class.
    """
    reconstructions, tokens, scores = reconstruct(model, images, perceptual)
    groups = table["group"].tolist()
    real, fake = pooled_features(images), pooled_features(reconstructions)
    result: dict[str, Any] = {
        "all": {name: bootstrap_mean(scores[name], groups) for name in PER_IMAGE}
        | {"codebook": codebook_use(tokens, model.config.codebook_size)}
        | {"rkid": half_sample_interval(lambda chosen: kid(real[chosen], fake[chosen]), groups)}
    }
    for label in sorted(table["label"].unique()):
        chosen = (table["label"] == label).to_numpy()
        result[label] = {name: float(scores[name][chosen].mean()) for name in PER_IMAGE}
    return result, scores, reconstructions


def reconstruct(model: VQModel, images: U8, perceptual: str) -> tuple[U8, NDArray[np.int64], pd.DataFrame]:
    """(reconstructions, tokens, one row of scores per image); the model ends in eval mode on `device()`."""
    on = device()
    model.eval().to(on)
    distance = perceptual_loss(perceptual)[0].to(on)
    found, tokens, rows = [], [], []
    for start in range(0, len(images), 8):
        batch = to_tanh_range(images[start : start + 8]).to(on)
        with torch.no_grad(), autocast(on):
            codes = model.encode(batch)
            decoded = model.decode(codes)
        with torch.no_grad():
            lpips = distance(decoded.float().clamp(-1, 1), batch.contiguous()).tolist()
        part = from_tanh_range(decoded)
        found.append(part)
        tokens.append(codes.cpu().numpy())
        for image, reference, value in zip(part, images[start : start + 8], lpips, strict=True):
            row = (
                ssim(image, reference),
                psnr(image, reference),
                edge_iou(image, reference),
                edge_iou(image, reference, 1),
                value,
            )
            rows.append(dict(zip(PER_IMAGE, row, strict=True)))
    return np.concatenate(found), np.concatenate(tokens), pd.DataFrame(rows)


def residual_grain(model: VQModel, images: U8) -> Grain:
    """What the tokenizer leaves out of these images."""
    codes, levels = codes_and_levels(model, images)
    return Grain.fit(images, levels, codes.numpy(), model.config.codebook_size)


def rkid_with_grain(model: VQModel, grain: Grain, images: U8, groups: list[object]) -> dict[str, float]:
    """rKID of reconstructions that got the grain: how real drawn images can look at best."""
    codes, levels = codes_and_levels(model, images)
    generators = [image_generator(0, "grain", number) for number in range(len(images))]
    noise = grain.draw(codes, images.shape[1], generators)
    real, fake = pooled_features(images), pooled_features(to_u8(levels + noise))
    return half_sample_interval(lambda chosen: kid(real[chosen], fake[chosen]), groups)


@torch.no_grad()
def codes_and_levels(
    model: VQModel, images: U8, batch_size: int = 8
) -> tuple[torch.Tensor, NDArray[np.float32]]:
    """Codes `int64 [N, h, w]` and unrounded grey levels `float32 [N, H, W]` of the reconstructions."""
    codes, levels = [], []
    on = device_of(model)
    for start in tqdm(range(0, len(images), batch_size), desc="through the tokenizer", unit="batch"):
        with autocast(on):
            found = model.encode(to_tanh_range(images[start : start + batch_size]).to(on))
            levels.append(grey_levels(model.decode(found)))
        codes.append(found.cpu())
    return torch.cat(codes), np.concatenate(levels)


def gains(before: pd.DataFrame, after: pd.DataFrame, groups: list[object]) -> dict[str, dict[str, float]]:
    """What training changed, image by image: the difference with its interval, and relative to before.

    The same images before and after: the interval of the paired difference is the one that tells
    whether training helped.
    """
    found = {}
    for name in PER_IMAGE:
        difference = bootstrap_mean(after[name] - before[name], groups)
        found[name] = difference | {"relative": difference["mean"] / float(before[name].mean())}
    return found


def drop(row: dict[str, float], key: str) -> dict[str, float]:
    """The row without one of its values."""
    return {name: value for name, value in row.items() if name != key}


class Curve(pl.Callback):
    """Reconstruction of validation images along the training, with the averaged weights."""

    def __init__(self, images: U8, perceptual: str, points: int, batch_size: int) -> None:
        self.images, self.perceptual, self.points, self.batch_size = images, perceptual, points, batch_size
        self.rows: list[dict[str, float]] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not self.rows and self.points:
            self.measure(module, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        epochs, done = trainer.max_epochs or 1, trainer.current_epoch + 1
        wanted = {round(epochs * (k + 1) / self.points) for k in range(self.points)}
        if done in wanted:
            self.measure(module, done * int(trainer.num_training_batches) * self.batch_size)

    def measure(self, module: pl.LightningModule, images_seen: int) -> None:
        """Append a row for the weights of now."""
        assert isinstance(module, VQLightning)
        model = copy.deepcopy(module.model)
        module.average.copy_to(model)
        scores = reconstruct(model, self.images, self.perceptual)[2]
        self.rows.append(
            {"images_seen": float(images_seen)} | {k: float(scores[k].mean()) for k in PER_IMAGE}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])


def plot(
    run: StageRun,
    images: U8,
    table: pd.DataFrame,
    before: U8,
    after: U8,
    history: list[dict[str, float]],
    curve: list[dict[str, float]],
) -> None:
    """Reconstruction pairs, edge maps, worst cases, loss curves, and quality against images seen."""
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
        if curve:
            pd.DataFrame(curve).to_csv(directory / "curve.csv", index=False)
            figure = curve_figure(curve)
            save_figure(figure, directory / "quality_against_images_seen.png")
            run.log_figure(figure, "quality_against_images_seen.png")


def curve_figure(rows: list[dict[str, float]]) -> Figure:
    """SSIM and both kinds of Edge IoU against training images seen."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    seen = [row["images_seen"] for row in rows]
    for name, label in (("ssim", "SSIM"), ("edge_iou", "Edge IoU"), ("edge_iou_1px", "Edge IoU, 1 px")):
        axes.plot(seen, [row[name] for row in rows], marker="o", label=label)
    axes.set(xlabel="training images seen", ylabel="validation images", ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


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
