"""Train MaskGIT on the token grids and measure what it learnt about held-out ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.data.splits import sampling_weights
from metaldefect.hardware import keep_freed_memory
from metaldefect.maskgit.checkpoints import read_halton, save_maskgit, start_from_halton
from metaldefect.maskgit.config import named_config
from metaldefect.maskgit.evaluation import held_out_cross_entropy, unigram_entropies
from metaldefect.maskgit.lightning_module import MaskGITTrainingConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.painter import Painter, Vocabulary
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.maskgit.soft_targets import soft_targets
from metaldefect.maskgit.training import Schedule, Watch, train
from metaldefect.tokenizer.checkpoints import load_tokenizer
from stages.figures import bars, image_grid, save_figure
from stages.params import Params
from stages.run import StageRun, run_stage

STAGE = "train_maskgit"
# Keys of the training section that are about batches and what is watched, not about the loss
SCHEDULING = {
    "batch_size", "checkpoint_steps", "unconditional_steps", "balanced", "soft_neighbours",
    "soft_temperature", "watch_steps", "watch_images",
}  # fmt: skip


def main(params: Params, run: StageRun) -> None:
    section = params.train_maskgit
    classes = params.data.classes
    table = pd.read_parquet("data/tokens/samples.parquet")
    tokens = np.load("data/tokens/tokens.npy", mmap_mode="r")
    labels = table["label"].map({name: i for i, name in enumerate(classes)}).to_numpy()
    vocabulary = Vocabulary.load(Path("data/tokens"))
    in_training = (table["split"] == "train").to_numpy()
    held = ~in_training
    size = int(read_json("models/vq/config.json")["image_size"])
    tokenizer = load_tokenizer(Path("models/vq"))

    keep_freed_memory()
    torch.manual_seed(params.seed)
    config = named_config(
        section.size,
        classes=len(classes),
        codebook_size=len(vocabulary.codes),
        grid=tokens.shape[1],
        heads=section.heads,
        dropout=section.dropout,
        conditioning=section.conditioning,
    )
    model = MaskGIT(config)
    if section.base:
        start_from_halton(model, read_halton(Path(section.base)), section.base, vocabulary.codes)
    training = section.training
    held_tokens = torch.from_numpy(tokens[held].astype(np.int64))
    held_labels = torch.from_numpy(labels[held])

    def look(step: int, averaged: MaskGIT) -> None:
        """A grid of samples while the training goes on."""
        painter = Painter(tokenizer, averaged, tuple(classes), vocabulary, size)
        figure = class_samples(params, painter)
        save_figure(figure, run.checkpoint_directory / "samples" / f"samples_at_{step:06d}.png")
        run.log_figure(figure, f"samples_at_{step:06d}.png")

    history, watched = train(
        model,
        MaskGITTrainingConfig(**training.model_dump(exclude=SCHEDULING)),
        torch.from_numpy(tokens[in_training].astype(np.int32)),
        torch.from_numpy(labels[in_training]),
        Schedule(
            training.unconditional_steps,
            training.batch_size,
            training.checkpoint_steps,
            params.seed,
            sampling_weights(table[in_training]["label"], table[in_training]["source"]).tolist()
            if training.balanced
            else None,
        ),
        run.checkpoint_directory,
        soft_targets(
            tokenizer.quantize.codebook.detach()[vocabulary.codes],
            training.soft_neighbours,
            training.soft_temperature,
        )
        if training.soft_weight
        else None,
        Watch(*spread(held_tokens, held_labels, training.watch_images), training.watch_steps, look)
        if training.watch_steps
        else None,
    )

    entropies = unigram_entropies(
        tokens[in_training], labels[in_training], tokens[held], labels[held],
        config.codebook_size, len(classes),
    )  # fmt: skip
    cross_entropy = held_out_cross_entropy(model, held_tokens, held_labels, seed=params.seed)
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
        "train_images": int(in_training.sum()),
        "held_out_images": int(held.sum()),
        "images_seen": training.steps * training.batch_size,
    }
    with atomic_directory("models/maskgit") as directory:
        save_maskgit(model, directory, {"classes": classes, "image_size": size})
        vocabulary.save(directory)
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    run.log_history(history)
    references = {name: entropies[name] for name in ("unigram", "class_unigram")}
    held_out = [{f"held_out_{key}": value for key, value in row.items()} | references for row in watched]
    run.log_history([{"step": row.pop("held_out_step"), **row} for row in held_out])
    painter = Painter(tokenizer, model, tuple(classes), vocabulary, size)
    plot(params, run, painter, metrics, history, [row | references for row in watched])


def spread(tokens: torch.Tensor, labels: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At most `count` of the held-out grids, spread evenly over them."""
    chosen = torch.linspace(0, len(tokens) - 1, min(count, len(tokens))).long()
    return tokens[chosen], labels[chosen]


def class_samples(params: Params, painter: Painter) -> Figure:
    """Four images of each class, from the same random numbers each time."""
    config = SamplingConfig(**params.synthesize.sampling.model_dump(exclude={"batch_size"}))
    generator = torch.Generator().manual_seed(params.seed)
    rows = [
        list(painter.sample(torch.full((4,), label), config, generator))
        for label in range(len(painter.classes))
    ]
    return image_grid(rows, painter.classes)


def plot(
    params: Params,
    run: StageRun,
    painter: Painter,
    metrics: dict[str, Any],
    history: list[dict[str, float]],
    watched: list[dict[str, float]],
) -> None:
    """Samples per class, cross-entropy per mask ratio and loss curves."""
    ratios = {
        f"mask {ratio}": {name: row[name] for name in ("true", "null", "wrong")}
        | {"class unigram": metrics["class_unigram"], "unigram": metrics["unigram"]}
        for ratio, row in metrics["per_ratio"].items()
    }
    with atomic_directory(f"plots/{STAGE}") as directory:
        figures = {
            "samples_per_class": class_samples(params, painter),
            "cross_entropy_per_mask_ratio": bars(ratios, "nats"),
        }
        for name, figure in figures.items():
            save_figure(figure, directory / f"{name}.png")
            run.log_figure(figure, f"{name}.png")
        if history:
            pd.DataFrame(history).to_csv(directory / "losses.csv", index=False)
        if watched:
            pd.DataFrame(watched).to_csv(directory / "held_out.csv", index=False)
        for path in sorted((run.checkpoint_directory / "samples").glob("*.png")):
            shutil.copy(path, directory)


if __name__ == "__main__":
    run_stage(STAGE, main)
