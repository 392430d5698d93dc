"""Encode all images to tokens: training ones from `augment`, held-out ones from `merge`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.hardware import autocast
from metaldefect.images import read_grey, to_tanh_range
from metaldefect.maskgit.painter import Vocabulary
from metaldefect.metrics.reconstruction import codebook_use
from metaldefect.tokenizer.checkpoints import load_tokenizer
from metaldefect.tokenizer.model import VQModel
from stages.figures import bars, save_figure
from stages.params import Params
from stages.run import StageRun, run_stage

STAGE = "tokenize"
KEPT = ["path", "label", "source", "split", "group"]


def main(params: Params, run: StageRun) -> None:
    size = params.finetune_vq.tokenizer.image_size
    model = load_tokenizer(Path("models/vq"))
    grid = model.config.grid(size)
    train = pd.read_parquet("data/augmented/samples.parquet").assign(root="data/augmented")
    merged = pd.read_parquet("data/merged/samples.parquet").assign(root="data/merged")
    seen = set(train["split"])
    table = pd.concat([train, merged[~merged["split"].isin(seen)]], ignore_index=True)

    with atomic_directory("data/tokens") as directory:
        codes = np.lib.format.open_memmap(
            directory / "tokens.npy", mode="w+", dtype=np.uint16, shape=(len(table), grid, grid)
        )
        encode(model, table, size, params.tokenize.batch_size, codes)
        in_training = (table["split"] == "train").to_numpy()
        if params.tokenize.vocabulary == "full":
            vocabulary = Vocabulary.full(model.config.codebook_size)
        else:
            vocabulary = Vocabulary.of(codes[in_training], model.quantize.codebook.detach())
        codes[:] = vocabulary.nearest.numpy()[codes]
        codes.flush()
        vocabulary.save(directory)
        table[KEPT].to_parquet(directory / "samples.parquet", index=False)
        metrics = describe(np.asarray(codes), table, vocabulary, model.config.codebook_size)
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    with atomic_directory(f"plots/{STAGE}") as directory:
        entropy = {name: {"entropy": value} for name, value in metrics["entropy_per_class"].items()}
        figure = bars(entropy, "token entropy, nats")
        save_figure(figure, directory / "token_entropy_per_class.png")
        run.log_figure(figure, "token_entropy_per_class.png")


def encode(model: VQModel, table: pd.DataFrame, size: int, batch_size: int, out: NDArray[np.uint16]) -> None:
    """Fill `out` with the tokenizer's codes of each image."""
    paths = [Path(root) / path for root, path in zip(table["root"], table["path"], strict=True)]
    with torch.no_grad(), tqdm(total=len(paths), desc="encoding", unit="image") as bar:
        for start in range(0, len(paths), batch_size):
            part = np.stack([read_grey(path, size) for path in paths[start : start + batch_size]])
            with autocast():
                out[start : start + len(part)] = model.encode(to_tanh_range(part)).numpy()
            bar.update(len(part))


def describe(
    tokens: NDArray[np.uint16], table: pd.DataFrame, vocabulary: Vocabulary, codebook_size: int
) -> dict[str, dict[str, float]]:
    """Counts, codes used and the entropy of token frequencies per class (nats)."""
    used = len(vocabulary.codes)
    train = (table["split"] == "train").to_numpy()
    entropy = {}
    for label in sorted(table["label"].unique()):
        chosen = train & (table["label"] == label).to_numpy()
        entropy[label] = float(np.log(codebook_use(tokens[chosen], used)["perplexity"]))
    return {
        "images": {str(k): int(v) for k, v in table["split"].value_counts().sort_index().items()},
        "codes": {"used": used, "codebook": codebook_size, "share": used / codebook_size},
        "train": codebook_use(tokens[train], used),
        "entropy_per_class": entropy,
    }


if __name__ == "__main__":
    run_stage(STAGE, main)
