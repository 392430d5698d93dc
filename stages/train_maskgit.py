"""Stage `train_maskgit`: train MaskGIT on the tokens of the training images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from metaldefect.artifacts import atomic_directory, read_json, write_json
from metaldefect.hardware import keep_freed_memory
from metaldefect.maskgit.checkpoints import save_maskgit
from metaldefect.maskgit.recipe import Recipe, train_recipe
from metaldefect.maskgit.token_data import (
    CODEBOOK,
    TokenGrids,
    images_seen_before,
    require_same_codes,
)
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.tokenizer.checkpoints import CONFIG, load_tokenizer
from metaldefect.tokenizer.codes import NEAR_CODES, codebook_digest
from metaldefect.tokenizer.colour import grey_codes_alike
from metaldefect.tokenizer.fields import load_fields, save_fields
from metaldefect.training.snapshot_files import FOLDER
from metaldefect.training.snapshots import Snapshots
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "train_maskgit"
TOKENS = Path("data/tokens/train")
TOKENIZER = Path("models/vq")
OUTPUT = Path("models/maskgit")


def main(params: Params, run: StageRun) -> None:
    """Write `models/maskgit`: the model, its vocabulary, its losses and snapshots taken during training."""
    keep_freed_memory()
    section, classes = params.train_maskgit, params.data.classes
    train, vocabulary = TokenGrids.training(TOKENS, classes), Vocabulary.load(TOKENS)
    tokenizer = load_tokenizer(TOKENIZER)
    card = read_json(TOKENIZER / CONFIG)
    require_same_codes(section.base, tokenizer, card.get(NEAR_CODES))
    codebook = tokenizer.quantize.codebook.detach().cpu()
    snapshots = Snapshots(run.checkpoint_directory / FOLDER, section.training.snapshots)
    recipe = Recipe.of(section, params.seed)
    model, history = train_recipe(
        recipe, train, vocabulary, codebook, classes, run.checkpoint_directory, snapshots,
        grey_codes_alike(tokenizer),
    )  # fmt: skip
    own = section.training.steps * section.training.batch_size
    metrics = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(vocabulary.codes),
        "train_images": len(train.tokens),
        "images_seen": own + images_seen_before(section.base),
    }
    about = {
        "classes": classes,
        "image_size": int(card["image_size"]),
        "levels": card["levels"],
        "images_seen": metrics["images_seen"],
        "batch_size": section.training.batch_size,
        CODEBOOK: codebook_digest(tokenizer),
    }
    with atomic_directory(OUTPUT) as directory:
        save_maskgit(model, directory, about)
        vocabulary.save(directory)
        save_fields(load_fields(TOKENS), directory)
        shutil.copytree(snapshots.folder, directory / FOLDER)
        pd.DataFrame(history).to_csv(directory / "losses.csv", index=False, float_format="%.6g")
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    run.log_history(history)


if __name__ == "__main__":
    run_stage(STAGE, main)
