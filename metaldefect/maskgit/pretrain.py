"""Train base weights of MaskGIT on procedural metal that never repeats, on the tokens of one tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metaldefect.artifacts import atomic_directory, read_json
from metaldefect.hardware import autocast, cpu_name, device_of
from metaldefect.images import to_tanh_range
from metaldefect.maskgit.checkpoints import CONFIG, save_maskgit
from metaldefect.maskgit.config import named_config
from metaldefect.maskgit.evaluation import held_out_cross_entropy
from metaldefect.maskgit.lightning_module import MaskGITLightning
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.token_data import (
    CODEBOOK,
    base_folder,
    images_seen_before,
    require_same_codes,
    start_weights,
)
from metaldefect.maskgit.training_config import MaskGITPretrainSettings, MaskGITTrainingConfig
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.procedural.stream import LABELS, draw_varied
from metaldefect.tokenizer.checkpoints import load_shipped
from metaldefect.tokenizer.codes import codebook_digest
from metaldefect.tokenizer.model import VQModel
from metaldefect.training.callbacks import ComputingTime
from metaldefect.training.trainer import fit

CODEBOOK_START = 0.3  # see `start_weights`
MIXING = 5  # side of the convolution before each block
HELD_OUT_SEED = 1_000_003  # of a stream that no training draws from
HELD_OUT_IMAGES = 70


class DrawnTokens:
    """Batches of token grids of images that are drawn for their step: `int64 [B, grid, grid]` and labels."""

    def __init__(self, tokenizer: VQModel, image_size: int, batch_size: int, seed: int) -> None:
        self.tokenizer = tokenizer.eval()
        self.image_size, self.batch_size, self.seed = image_size, batch_size, seed

    @torch.no_grad()
    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        first = step * self.batch_size
        drawn = [draw_varied(self.seed, first + i, self.image_size) for i in range(self.batch_size)]
        return self.encode(np.stack([image for image, _ in drawn])), label_numbers(
            [name for _, name in drawn]
        )

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Tensor:
        """Tokens of grey `uint8 [N, S, S]`, `int64 [N, grid, grid]`, on the CPU."""
        on = device_of(self.tokenizer)
        with autocast(on):
            return self.tokenizer.encode(to_tanh_range(images).to(on)).cpu()

    def content(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer,
            "drawing": {"image_size": self.image_size, "batch_size": self.batch_size, "seed": self.seed},
        }


def label_numbers(names: Sequence[str]) -> Tensor:
    """Numbers of `LABELS`, `int64 [N]`."""
    return torch.tensor([LABELS.index(name) for name in names])


def held_out_losses(model: MaskGIT, batches: DrawnTokens) -> Mapping[str, float]:
    """Masked cross-entropy of images from another stream, with the true label, a wrong one and none."""
    drawn = [draw_varied(HELD_OUT_SEED, i, batches.image_size) for i in range(HELD_OUT_IMAGES)]
    tokens = torch.cat([batches.encode(np.stack([image])) for image, _ in drawn])
    found = held_out_cross_entropy(model, tokens, label_numbers([name for _, name in drawn]), seed=0)
    at_90 = found["per_ratio"]["0.9"]
    return {f"ce_{name}": found[name] for name in ("true", "wrong", "null")} | {
        "top1": found["top1"],
        "ce_wrong_minus_true_at_90": at_90["wrong"] - at_90["true"],
    }


def pretrain(
    settings: MaskGITPretrainSettings,
    minutes: float,
    base: str | None,
    checkpoints: Path,
    output: Path,
) -> None:
    """Train for some computing time, over all legs, and write the model as `save_maskgit` does.

    Args:
        settings: what to train, and how.
        minutes: computing time of all legs together; a leg goes on from the last one's state.
        base: `shipped` or the folder of an earlier training: its weights are the start, and its images count;
            with another seed, other images are drawn. None: random weights.
        checkpoints: folder of that state.
        output: folder of the model, in half precision, with its card (`config.json`), which contains
            the learning curve.
    """
    tokenizer = load_shipped()
    batches = DrawnTokens(tokenizer, settings.image_size, settings.batch_size, settings.seed)
    torch.manual_seed(settings.seed)
    codes = tokenizer.config.codebook_size
    model = MaskGIT(
        named_config(
            settings.size,
            classes=len(LABELS),
            codebook_size=codes,
            grid=tokenizer.config.grid(settings.image_size),
            mixing=MIXING,
        )
    )
    require_same_codes(base, tokenizer)
    codebook = tokenizer.quantize.codebook.detach().cpu()
    start_weights(model, base, CODEBOOK_START, codebook, Vocabulary.full(codes), LABELS)
    config = MaskGITTrainingConfig(
        steps=1,
        schedule="constant",
        learning_rate=settings.learning_rate,
        warmup_steps=50,
        label_smoothing=0.0,
        ema_decay=0.995,
    )
    module, clock = MaskGITLightning(model, config), ComputingTime(60 * minutes)
    history = fit(
        module,
        batches,
        steps=None,
        epoch_steps=settings.checkpoint_steps,
        seed=settings.seed,
        checkpoint_directory=checkpoints,
        clock=clock,
    )
    module.average.copy_to(model)
    write_base(model.eval(), settings, batches, module.step, clock, base, output)
    pd.DataFrame(history).to_csv(output / "losses.csv", index=False, float_format="%.5g")


def write_base(
    model: MaskGIT,
    settings: MaskGITPretrainSettings,
    batches: DrawnTokens,
    step: int,
    clock: ComputingTime,
    base: str | None,
    output: Path,
) -> None:
    """Measure the model on held-out images, and write it with its card."""
    seen = images_seen_before(base) + step * settings.batch_size
    row = {"images_seen": seen, "computing_minutes": round(clock.seconds / 60, 1)}
    row |= {name: round(value, 4) for name, value in held_out_losses(model, batches).items()}
    start = output if output.is_dir() else base_folder(base)
    earlier = read_json(start / CONFIG).get("curve", []) if start is not None else []
    curve = [point for point in earlier if point["images_seen"] < row["images_seen"]] + [row]
    with atomic_directory(output) as folder:
        save_maskgit(
            model.half(),
            folder,
            {
                "what": "base weights of MaskGIT, trained on procedural metal of this package only",
                "classes": list(LABELS),
                "image_size": settings.image_size,
                "settings": settings.model_dump(),
                "curve": curve,
                CODEBOOK: codebook_digest(batches.tokenizer),
                "legs": clock.legs,
                "machine": cpu_name(),
                "command": f"metaldefect pretrain maskgit --minutes {row['computing_minutes']:g}"
                + (f" --base {Path(base).name}" if base else ""),
            }
            | row,
        )
        Vocabulary.full(model.config.codebook_size).save(folder)
    print(f"{output}: {row}", flush=True)
