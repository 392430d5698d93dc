"""Train MaskGIT on the token grids and measure what it learnt about held-out ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import TensorDataset

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.maskgit.checkpoints import read_halton, save_maskgit, start_from_halton
from metaldefect.maskgit.config import named_config
from metaldefect.maskgit.evaluation import held_out_cross_entropy, unigram_entropies
from metaldefect.maskgit.lightning_module import MaskGITLightning, MaskGITTrainingConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.painter import Painter, Vocabulary
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.tokenizer.checkpoints import load_tokenizer
from metaldefect.training import fit
from stages.figures import bars, image_grid, save_figure
from stages.params import Params
from stages.run import StageRun, run_stage

STAGE = "train_maskgit"


def main(params: Params, run: StageRun) -> None:
    section = params.train_maskgit
    classes = params.data.classes
    table = pd.read_parquet("data/tokens/samples.parquet")
    tokens = np.load("data/tokens/tokens.npy", mmap_mode="r")
    labels = table["label"].map({name: i for i, name in enumerate(classes)}).to_numpy()
    vocabulary = Vocabulary.load(Path("data/tokens"))
    train = (table["split"] == "train").to_numpy()

    torch.manual_seed(params.seed)
    config = named_config(
        section.size,
        classes=len(classes),
        codebook_size=len(vocabulary.codes),
        grid=tokens.shape[1],
        heads=section.heads,
        dropout=section.dropout,
    )
    model = MaskGIT(config)
    if section.base:
        start_from_halton(model, read_halton(Path(section.base)), section.base)
    arguments = section.training.model_dump(exclude={"batch_size", "checkpoint_steps"})
    module = MaskGITLightning(model, MaskGITTrainingConfig(**arguments))
    history = fit(
        module,
        TensorDataset(torch.from_numpy(tokens[train].astype(np.int32)), torch.from_numpy(labels[train])),
        steps=section.training.steps,
        batch_size=section.training.batch_size,
        epoch_steps=section.training.checkpoint_steps,
        seed=params.seed,
        checkpoint_directory=run.checkpoint_directory,
        weights=balanced_weights(table[train]),
    )
    module.average.copy_to(model)
    model.eval()

    held = ~train
    entropies = unigram_entropies(
        tokens[train], labels[train], tokens[held], labels[held], config.codebook_size, len(classes)
    )
    cross_entropy = held_out_cross_entropy(
        model,
        torch.from_numpy(tokens[held].astype(np.int64)),
        torch.from_numpy(labels[held]),
        seed=params.seed,
    )
    metrics: dict[str, Any] = {
        "masked_ce": cross_entropy["true"],
        "ce_true": cross_entropy["true"],
        "ce_wrong": cross_entropy["wrong"],
        "ce_null": cross_entropy["null"],
        "ce_wrong_minus_true": cross_entropy["wrong"] - cross_entropy["true"],  # type: ignore[operator]
        "ce_below_class_unigram": entropies["class_unigram"] - cross_entropy["true"],  # type: ignore[operator]
        "top1": cross_entropy["top1"],
        "top5": cross_entropy["top5"],
        **entropies,
        "per_ratio": cross_entropy["per_ratio"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": config.codebook_size,
        "train_images": int(train.sum()),
        "held_out_images": int(held.sum()),
        "images_seen": section.training.steps * section.training.batch_size,
    }
    with atomic_directory("models/maskgit") as directory:
        size = int(read_json("models/vq/config.json")["image_size"])
        save_maskgit(model, directory, {"classes": classes, "image_size": size})
        vocabulary.save(directory)
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    run.log_history(history)
    painter = Painter(load_tokenizer(Path("models/vq")), model, tuple(classes), vocabulary, size)
    plot(params, run, painter, metrics, history)


def balanced_weights(table: pd.DataFrame) -> list[float]:
    """Sampling weights that give each class the same share, and each source the same within its class."""
    pairs = table.groupby(["label", "source"])["path"].transform("size")
    sources = table.groupby("label")["source"].transform("nunique")
    return (1.0 / (pairs * sources)).tolist()


def plot(
    params: Params,
    run: StageRun,
    painter: Painter,
    metrics: dict[str, Any],
    history: list[dict[str, float]],
) -> None:
    """Samples per class, cross-entropy per mask ratio and loss curves."""
    sampling = params.synthesize.sampling
    config = SamplingConfig(**sampling.model_dump(exclude={"batch_size"}))
    generator = torch.Generator().manual_seed(params.seed)
    rows = [
        list(painter.sample(torch.full((4,), label), config, generator))
        for label in range(len(painter.classes))
    ]
    ratios = {
        f"mask {ratio}": {name: row[name] for name in ("true", "null", "wrong")}
        | {"class unigram": metrics["class_unigram"]}
        for ratio, row in metrics["per_ratio"].items()
    }
    with atomic_directory(f"plots/{STAGE}") as directory:
        figures = {
            "samples_per_class": image_grid(rows, painter.classes),
            "cross_entropy_per_mask_ratio": bars(ratios, "nats"),
        }
        for name, figure in figures.items():
            save_figure(figure, directory / f"{name}.png")
            run.log_figure(figure, f"{name}.png")
        if history:
            pd.DataFrame(history).to_csv(directory / "losses.csv", index=False)


if __name__ == "__main__":
    run_stage(STAGE, main)
