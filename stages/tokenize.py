"""Encode all images to tokens: training ones from `augment`, held-out ones from `merge`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.artifacts import atomic_directory, atomic_file, write_json
from metaldefect.hardware import autocast, device_of, keep_freed_memory, workers
from metaldefect.images import read_grey, to_tanh_range
from metaldefect.metrics.reconstruction import codebook_use
from metaldefect.synthesis.painter import Vocabulary
from metaldefect.tokenizer.checkpoints import load_tokenizer
from metaldefect.tokenizer.model import VQModel
from pipeline.figures import bars, save_figure
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "tokenize"
MISSING = np.iinfo(np.uint16).max  # no codebook is that large
KEPT = ["path", "label", "source", "split", "group"]


def main(params: Params, run: StageRun) -> None:
    size = params.finetune_vq.tokenizer.image_size
    model = load_tokenizer(Path("models/vq"))
    train = pd.read_parquet("data/augmented/samples.parquet").assign(root="data/augmented")
    merged = pd.read_parquet("data/merged/samples.parquet").assign(root="data/merged")
    seen = set(train["split"])
    table = pd.concat([train, merged[~merged["split"].isin(seen)]], ignore_index=True)

    working = run.checkpoint_directory / "tokens.npy"
    encode(model, table, size, params.tokenize.batch_size, working)
    with atomic_directory("data/tokens") as directory:
        shutil.copyfile(working, directory / "tokens.npy")
        codes = np.load(directory / "tokens.npy", mmap_mode="r+")
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


def encode(model: VQModel, table: pd.DataFrame, size: int, batch_size: int, working: Path) -> None:
    """Fill the array file `working`, `uint16 [N, h, w]`, with the tokenizer's codes of each image.

    A file that an interrupted run left there is gone on with: rows not yet encoded hold `MISSING`.
    """
    grid = model.config.grid(size)
    shape = (len(table), grid, grid)
    if not working.is_file():
        working.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(working) as temporary:
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint16, shape=shape)[:] = MISSING
    out = np.load(working, mmap_mode="r+")
    missing = (out == MISSING).any(axis=(1, 2))
    done = int(missing.argmax()) if missing.any() else len(table)
    if done:
        print(f"going on after {done} of {len(table)} images in {working}", flush=True)
    paths = [Path(root) / path for root, path in zip(table["root"], table["path"], strict=True)]
    encoder = batch_encoder(model)
    with (
        ThreadPoolExecutor(workers()) as pool,
        tqdm(total=len(paths), initial=done, desc="encoding", unit="image") as bar,
    ):
        for start in range(done, len(paths), batch_size):
            chosen = paths[start : start + batch_size]
            part = np.stack(list(pool.map(lambda path: read_grey(path, size), chosen)))
            out[start : start + len(part)] = encoder(to_tanh_range(part)).numpy()
            bar.update(len(part))
    out.flush()


def batch_encoder(model: VQModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """Images to tokens, in bfloat16 where the machine multiplies that faster."""
    keep_freed_memory()
    on = device_of(model)

    def encode_batch(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), autocast(on):
            return model.encode(images.to(on)).cpu()

    return encode_batch


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
