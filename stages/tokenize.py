"""Stage `tokenize`: encode training images from `augment` and held-out images from `merge` to tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.artifacts import atomic_directory, atomic_file, read_json, write_json
from metaldefect.hardware import autocast, device_of, keep_freed_memory, workers
from metaldefect.images import read_grey, read_image, to_tanh_range
from metaldefect.ingest.loading import rows_of, training_rows
from metaldefect.ingest.samples import TABLE_NAME, counts_of
from metaldefect.maskgit.token_data import DEFECTS, TOKENS
from metaldefect.maskgit.training_masks import defect_cells
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.on_disk import reserve
from metaldefect.tokenizer.checkpoints import CONFIG, load_tokenizer
from metaldefect.tokenizer.fields import fields_by_class, save_fields
from metaldefect.tokenizer.model import VQModel
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "tokenize"
MERGED, AUGMENTED = Path("data/merged"), Path("data/augmented")
TOKENIZER = Path("models/vq")
OUTPUT = Path("data/tokens")
FIELDS = "fields.npy"
MISSING = np.iinfo(np.uint16).max  # marks a row not yet encoded: no codebook is that large
KEPT = ["path", "label", "source", "split", "group"]


def main(params: Params, run: StageRun) -> None:
    """Write `data/tokens/train` and `data/tokens/held_out`: token grids with their images' table rows."""
    model = load_tokenizer(TOKENIZER)
    size = int(read_json(TOKENIZER / CONFIG)["image_size"])
    merged = rows_of(MERGED)
    sides = {
        "train": training_rows(AUGMENTED).assign(root=str(AUGMENTED)),
        "held_out": merged[merged["split"] != "train"].assign(root=str(MERGED)),
    }
    table = pd.concat(sides.values(), ignore_index=True)
    working = run.checkpoint_directory / TOKENS
    encode(model, table, size, params.tokenize.batch_size, working)
    codes = np.load(working, mmap_mode="r")
    fields = np.load(working.with_name(FIELDS), mmap_mode="r")
    if params.tokenize.vocabulary == "full":
        vocabulary = Vocabulary.full(model.config.codebook_size)
    else:
        entries = model.quantize.codebook.detach()
        vocabulary = Vocabulary.of(codes[: len(sides["train"])], entries, model.config.hue_dim)
    start = 0
    with atomic_directory(OUTPUT) as directory:
        for name, rows in sides.items():
            part = codes[start : start + len(rows)]
            start += len(rows)
            (directory / name).mkdir()
            np.save(directory / name / TOKENS, vocabulary.nearest.numpy()[part].astype(np.uint16))
            rows[KEPT].to_parquet(directory / name / TABLE_NAME, index=False)
        np.save(directory / "train" / DEFECTS, cells_of_defects(sides["train"], codes.shape[1]))
        vocabulary.save(directory / "train")
        if model.config.field:
            light = fields[: len(sides["train"])]
            save_fields(fields_by_class(light, sides["train"]["label"].tolist()), directory / "train")
    used, codebook = len(vocabulary.codes), model.config.codebook_size
    metrics = {
        "images": counts_of(table["split"]),
        "codes": {"used": used, "codebook": codebook, "share": used / codebook},
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)


def encode(model: VQModel, table: pd.DataFrame, size: int, batch_size: int, working: Path) -> None:
    """Fill the array file `working`, `uint16 [N, h, w]`, with the tokenizer's codes of each image.

    The file `fields.npy` beside it gets their fields, `float16 [N, 3, field, field]`. Resumes from the files
    of an interrupted run: `MISSING` marks the rows still to encode.
    """
    grid, field = model.config.grid(size), model.config.field
    # The codes last: they say which rows are missing
    lights = array_file(working.with_name(FIELDS), (len(table), 3, field, field), np.float16, 0)
    out = array_file(working, (len(table), grid, grid), np.uint16, MISSING)
    missing = (out == MISSING).any(axis=(1, 2))
    done = int(missing.argmax()) if missing.any() else len(table)
    if done:
        print(f"resuming after {done} of {len(table)} images in {working}", flush=True)
    paths = [Path(root) / path for root, path in zip(table["root"], table["path"], strict=True)]
    encoder, channels = batch_encoder(model), model.config.image_channels
    with (
        ThreadPoolExecutor(workers()) as pool,
        tqdm(total=len(paths), initial=done, desc="encoding", unit="image") as bar,
    ):
        for start in range(done, len(paths), batch_size):
            chosen = paths[start : start + batch_size]
            part = np.stack(list(pool.map(lambda path: read_image(path, channels, size=size), chosen)))
            images = to_tanh_range(part)
            lights[start : start + len(part)] = model.field(images).numpy()
            out[start : start + len(part)] = encoder(images).numpy()
            bar.update(len(part))
    lights.flush()
    out.flush()


def cells_of_defects(rows: pd.DataFrame, grid: int) -> NDArray[np.bool_]:
    """Token cells of each row's defects, by its mask or else its boxes, `bool [N, grid, grid]`."""

    def cells(row: Mapping[str, Any]) -> NDArray[np.bool_]:
        mask = read_grey(Path(row["root"]) / row["mask_path"]) if pd.notna(row["mask_path"]) else None
        return defect_cells(mask, row["boxes"], row["width"], grid)

    with ThreadPoolExecutor(workers()) as pool:
        found = list(pool.map(cells, rows[["root", "mask_path", "boxes", "width"]].to_dict("records")))
    return np.stack(found) if found else np.zeros((0, grid, grid), bool)


def array_file(path: Path, shape: tuple[int, ...], dtype: type, fill: int) -> np.memmap:
    """The array in a file, open for writing; a new file is filled with one value."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
            with temporary.open("r+b") as file:
                reserve(file, temporary.stat().st_size)
            array[:] = fill
    return np.lib.format.open_memmap(path, mode="r+")


def batch_encoder(model: VQModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from images to tokens; it uses bfloat16 if the machine multiplies that faster."""
    keep_freed_memory()
    on = device_of(model)

    def encode_batch(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), autocast(on):
            return model.encode(images.to(on)).cpu()

    return encode_batch


if __name__ == "__main__":
    run_stage(STAGE, main)
