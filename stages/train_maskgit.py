"""Train MaskGIT on the token grids and measure what it learnt about held-out ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.errors import UserError
from metaldefect.hardware import keep_freed_memory
from metaldefect.ingest.splits import sampling_weights
from metaldefect.maskgit.checkpoints import read_halton, save_maskgit, start_from_halton, start_from_saved
from metaldefect.maskgit.config import named_config
from metaldefect.maskgit.evaluation import held_out_cross_entropy, unigram_losses
from metaldefect.maskgit.lightning_module import MaskGITTrainingConfig
from metaldefect.maskgit.model import MaskGIT, start_from_codebook
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.maskgit.soft_targets import soft_targets
from metaldefect.maskgit.training import Schedule, Watch, train
from metaldefect.metrics.bootstrap import bootstrap_mean
from metaldefect.synthesis.grain import Grain
from metaldefect.synthesis.painter import Painter, Vocabulary
from metaldefect.tokenizer.checkpoints import load_tokenizer
from metaldefect.tokenizer.model import VQModel
from metaldefect.training.trainer import History
from pipeline.figures import bars, image_grid, save_figure
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "train_maskgit"
# Keys of the training section that are about batches and what is watched, not about the loss
SCHEDULING = {
    "batch_size", "checkpoint_steps", "unconditional_steps", "balanced", "soft_neighbours",
    "soft_temperature", "watch_steps", "watch_images",
}  # fmt: skip


class TokenData(NamedTuple):
    """What `tokenize` made."""

    tokens: NDArray[np.uint16]  # [N, grid, grid]
    labels: NDArray[np.int64]  # [N], numbers of `classes`
    table: pd.DataFrame
    classes: tuple[str, ...]
    vocabulary: Vocabulary
    tokenizer: VQModel
    image_size: int
    grain: Grain | None

    @classmethod
    def load(cls, params: Params) -> TokenData:
        """Read `data/tokens` and the tokenizer."""
        classes = params.data.classes
        table = pd.read_parquet("data/tokens/samples.parquet")
        return cls(
            np.load("data/tokens/tokens.npy", mmap_mode="r"),
            np.asarray(table["label"].map({name: i for i, name in enumerate(classes)}), np.int64),
            table,
            tuple(classes),
            Vocabulary.load(Path("data/tokens")),
            load_tokenizer(Path("models/vq")),
            int(read_json("models/vq/config.json")["image_size"]),
            Grain.load(Path("models/vq")),
        )

    def painter(self, model: MaskGIT) -> Painter:
        """A model that draws in these tokens."""
        return Painter(self.tokenizer, model, self.classes, self.vocabulary, self.image_size, self.grain)

    @property
    def in_training(self) -> NDArray[np.bool_]:
        """Which images are for training; the others are held out."""
        return (self.table["split"] == "train").to_numpy()

    def held_out(self) -> tuple[Tensor, Tensor]:
        """Tokens and labels of the held-out images."""
        held = ~self.in_training
        return torch.from_numpy(self.tokens[held].astype(np.int64)), torch.from_numpy(self.labels[held])


def main(params: Params, run: StageRun) -> None:
    data = TokenData.load(params)
    keep_freed_memory()
    samples = run.checkpoint_directory / "samples"

    def look(step: int, averaged: MaskGIT) -> None:
        """A grid of samples while the training goes on."""
        figure = class_samples(params, data.painter(averaged))
        save_figure(figure, samples / f"samples_at_{step:06d}.png")
        run.log_figure(figure, f"samples_at_{step:06d}.png")

    model, history, watched = train_model(params, data, run.checkpoint_directory, look)
    metrics = measure(params, data, model)
    about = {"classes": list(data.classes), "image_size": data.image_size}
    with atomic_directory("models/maskgit") as directory:
        save_maskgit(model, directory, about | {"images_seen": metrics["images_seen"]})
        data.vocabulary.save(directory)
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    run.log_history(history)
    references = {name: metrics[name] for name in ("unigram", "class_unigram")}
    watched = [row | references for row in watched]
    run.log_history(
        [
            {(key if key == "step" else f"held_out_{key}"): value for key, value in row.items()}
            for row in watched
        ]
    )
    plot(params, run, data.painter(model), metrics, history, watched)


def train_model(
    params: Params,
    data: TokenData,
    checkpoint_directory: Path | None,
    look: Callable[[int, MaskGIT], None] | None = None,
) -> tuple[MaskGIT, History, History]:
    """The model that the parameters describe, trained; what was logged; and the held-out rows."""
    section, training = params.train_maskgit, params.train_maskgit.training
    torch.manual_seed(params.seed)
    model = MaskGIT(
        named_config(
            section.size,
            classes=len(data.classes),
            codebook_size=len(data.vocabulary.codes),
            grid=data.tokens.shape[1],
            heads=section.heads,
            dropout=section.dropout,
            conditioning=section.conditioning,
            mixing=section.mixing,
        )
    )
    codes = data.vocabulary.codes
    codebook = data.tokenizer.quantize.codebook.detach().cpu()[codes]
    if section.base and Path(section.base).is_dir():
        start_from_own(model, Path(section.base), data)
    elif section.base:
        start_from_halton(model, read_halton(Path(section.base)), section.base, codes)
    elif section.codebook_start:
        start_from_codebook(model, codebook, section.codebook_start)
    weights = None
    if training.balanced:
        chosen = data.table[data.in_training]
        weights = sampling_weights(chosen["label"].tolist(), chosen["source"].tolist()).tolist()
    soft = None
    if training.soft_weight:
        soft = soft_targets(codebook, training.soft_neighbours, training.soft_temperature)
    watch = None
    if training.watch_steps:
        few = spread(*data.held_out(), training.watch_images)
        watch = Watch(*few, training.watch_steps, look)
    history, watched = train(
        model,
        MaskGITTrainingConfig(**training.model_dump(exclude=SCHEDULING)),
        torch.from_numpy(data.tokens[data.in_training].astype(np.int32)),
        torch.from_numpy(data.labels[data.in_training]),
        Schedule(
            training.unconditional_steps,
            training.batch_size,
            training.checkpoint_steps,
            params.seed,
            weights,
        ),
        checkpoint_directory,
        soft,
        watch,
    )
    return model, history, watched


def start_from_own(model: MaskGIT, directory: Path, data: TokenData) -> None:
    """Go on from an earlier run's model, which has to mean the same by its tokens and classes."""
    codes = Vocabulary.load(directory).codes
    if not torch.equal(codes, data.vocabulary.codes):
        raise UserError(
            f"train_maskgit.base: {directory} draws with {len(codes)} codes of the codebook, data/tokens has "
            f"{len(data.vocabulary.codes)} others; set tokenize.vocabulary to full in both runs"
        )
    classes = read_json(directory / "config.json").get("classes")
    if classes != list(data.classes):
        raise UserError(f"train_maskgit.base: {directory} knows the classes {classes}, not {data.classes}")
    start_from_saved(model, directory)


def images_seen(params: Params) -> int:
    """Of this training and, where it goes on from an earlier run's model, of that one too."""
    section = params.train_maskgit
    own = section.training.steps * section.training.batch_size
    saved = Path(section.base) / "config.json" if section.base else None
    return own + (int(read_json(saved).get("images_seen", 0)) if saved and saved.is_file() else 0)


def measure(params: Params, data: TokenData, model: MaskGIT) -> dict[str, Any]:
    """Cross-entropies of all held-out tokens, with intervals over near-duplicate groups."""
    train, held = data.in_training, ~data.in_training
    tokens, labels = data.held_out()
    unigrams = unigram_losses(
        data.tokens[train], data.labels[train], tokens.numpy(), labels.numpy(),
        model.config.codebook_size, len(data.classes),
    )  # fmt: skip
    found = held_out_cross_entropy(model, tokens, labels, seed=params.seed)
    losses = {name: values.double().numpy() for name, values in found["per_sample"].items()}
    values = {
        **{f"ce_{name}": loss for name, loss in losses.items()},
        "ce_wrong_minus_true": losses["wrong"] - losses["true"],
        "ce_null_minus_true": losses["null"] - losses["true"],
        "ce_below_class_unigram": unigrams["class_unigram"] - losses["true"],
        **unigrams,
    }
    groups = data.table[held]["group"].tolist()
    estimates = {name: bootstrap_mean(value, groups) for name, value in values.items()}
    return {
        "masked_ce": estimates["ce_true"]["mean"],
        **{name: estimate["mean"] for name, estimate in estimates.items()},
        "top1": found["top1"],
        "top5": found["top5"],
        "per_ratio": found["per_ratio"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": model.config.codebook_size,
        "train_images": int(train.sum()),
        "held_out_images": int(held.sum()),
        "images_seen": images_seen(params),
        "interval_95": {name: [e["low"], e["high"]] for name, e in estimates.items()},
    }


def spread(tokens: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` of the held-out grids, spread evenly over them."""
    chosen = torch.linspace(0, len(tokens) - 1, min(count, len(tokens))).long()
    return tokens[chosen], labels[chosen]


def class_samples(params: Params, painter: Painter) -> Figure:
    """Four images of each class, from the same random numbers each time."""
    config = SamplingConfig(**params.synthesize.sampling.model_dump(exclude={"batch_size"}))
    rows = [
        list(painter.sample(torch.full((4,), label), range(4), config, params.seed))
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
