"""Stage `finetune_vq`: fine-tune the tokenizer on augmented metal."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.images import grey_stack
from metaldefect.ingest.levels import LEVELS
from metaldefect.ingest.loading import training_rows
from metaldefect.synthesis.exemplars import Exemplars
from metaldefect.synthesis.grain import Grain
from metaldefect.synthesis.residual import measure_detail
from metaldefect.tokenizer.checkpoints import load_base, save_tokenizer
from metaldefect.tokenizer.codes import NEAR_CODES, grey_codebook_digest
from metaldefect.tokenizer.colour import colour_model
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.lightning_module import VQLightning
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import start_from_images
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.data import ImageFiles, SampledBatches
from metaldefect.training.snapshot_files import FOLDER
from metaldefect.training.snapshots import Snapshots
from metaldefect.training.trainer import fit
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "finetune_vq"
AUGMENTED = Path("data/augmented")
OUTPUT = Path("models/vq")
START_IMAGES = 1000  # images for the closed-form start of fresh weights
HUE_IMAGES = 240  # images whose hues a grey base learns in closed form
DETAIL_IMAGES = 360  # images for measuring what the tokenizer leaves out


def main(params: Params, run: StageRun) -> None:
    """Write `models/vq`: the tokenizer, the detail that it leaves out, its losses and snapshots."""
    section, training = params.finetune_vq, params.finetune_vq.training
    size = section.tokenizer.image_size
    rows = training_rows(AUGMENTED)
    images = ImageFiles([AUGMENTED / path for path in rows["path"]], size, params.data.channels)
    torch.manual_seed(params.seed)
    order = np.random.default_rng(params.seed).permutation(len(images))
    model = start_model(params, images, order)
    near = {NEAR_CODES: grey_codebook_digest(model)} if training.mode == "slow_codebook" else {}
    module = VQLightning(model, training_config(params))
    snapshots = Snapshots(run.checkpoint_directory / FOLDER, training.snapshots)
    history = fit(
        module,
        SampledBatches(images, training.batch_size, params.seed),
        steps=training.steps,
        epoch_steps=training.checkpoint_steps,
        seed=params.seed,
        checkpoint_directory=run.checkpoint_directory,
        snapshots=snapshots,
    )
    module.average.copy_to(model)
    model.eval()

    metrics = {
        "base": section.tokenizer.base,
        "perceptual": module.perceptual_name,
        "train_images": len(rows),
        "images_seen": training.steps * training.batch_size,
    }
    with atomic_directory(OUTPUT) as directory:
        about = {
            "image_size": size,
            "batch_size": training.batch_size,
            "levels": read_json(AUGMENTED / LEVELS),
            **near,
            **metrics,
        }
        save_tokenizer(model, directory, about)
        for detail in detail_of(model, images, rows["label"].iloc[order]):
            detail.save(directory)
        shutil.copytree(snapshots.folder, directory / FOLDER)
        pd.DataFrame(history).to_csv(directory / "losses.csv", index=False, float_format="%.6g")
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    run.log_history(history)


def start_model(params: Params, images: ImageFiles, order: NDArray[np.int64]) -> VQModel:
    """The base weights; or, without a base, those that fit the training images in closed form.

    Args:
        params: of the run.
        images: of the training.
        order: a random order of the images, of which the first ones serve.
    """
    tokenizer, channels = params.finetune_vq.tokenizer, params.data.channels
    config = named_config(tokenizer.name, tokenizer.codebook_size)
    config.grid(tokenizer.image_size)
    model = load_base(tokenizer.base, config, channels)
    if tokenizer.base == "none" and config.patch_path:
        start_from_images(model, grey_stack(images.stack(order[:START_IMAGES])), params.seed)
    if channels == 3:
        model = colour_model(model, images.stack(order[:HUE_IMAGES]), params.seed)
    return model


def detail_of(model: VQModel, images: ImageFiles, labels: pd.Series) -> tuple[Grain, Exemplars]:
    """What the tokenizer leaves out, measured on equally many images of each class, in the labels' order."""
    chosen = labels.groupby(labels).head(max(1, DETAIL_IMAGES // labels.nunique())).sort_index()
    return measure_detail(model, images.stack(chosen.index.to_numpy()), chosen.tolist())


def training_config(params: Params) -> VQTrainingConfig:
    """The stage's training section as the library's configuration."""
    tokenizer = params.finetune_vq.tokenizer
    return VQTrainingConfig.of(
        params.finetune_vq.training,
        data_initialised_codebook=tokenizer.base == "none" and not named_config(tokenizer.name).patch_path,
    )


if __name__ == "__main__":
    run_stage(STAGE, main)
