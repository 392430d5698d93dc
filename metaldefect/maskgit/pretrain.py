"""Train base weights of MaskGIT on procedural metal that never repeats, on the tokens of one tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metaldefect.artifacts import atomic_directory, read_json
from metaldefect.hardware import autocast, device_of, machine_name
from metaldefect.images import U8, to_tanh_range
from metaldefect.ingest.groups import apply_symmetry
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
from metaldefect.tokenizer.pretrain import CURVE_POINTS, command_of, extended
from metaldefect.training.callbacks import ComputingTime
from metaldefect.training.snapshot_files import FOLDER, load_snapshot
from metaldefect.training.snapshots import Snapshots
from metaldefect.training.trainer import fit

CODEBOOK_START = 0.3  # see `start_weights`
Drawn = tuple[U8, np.ndarray]
MIXING = 5  # side of the convolution before each block
HELD_OUT_SEED = 1_000_003  # of a stream that no training draws from
HELD_OUT_IMAGES = 70


def draw_step(seed: int, count: int, image_size: int, step: int) -> Drawn:
    """Images of a step, `uint8 [count, S, S]`, and their labels' numbers, `int64 [count]`."""
    drawn = [draw_varied(seed, step * count + i, image_size) for i in range(count)]
    return np.stack([image for image, _ in drawn]), np.array([LABELS.index(name) for _, name in drawn])


class DrawnTokens:
    """Batches of token grids of images that are drawn for their step: `int64 [B, grid, grid]` and labels.

    Args:
        tokenizer: makes the tokens.
        image_size: side of the images in pixels.
        batch_size: grids per step.
        seed: of the drawings.
        symmetries: in how many of the square's symmetries each image comes, in one batch.
    """

    def __init__(
        self, tokenizer: VQModel, image_size: int, batch_size: int, seed: int, symmetries: int = 1
    ) -> None:
        self.tokenizer = tokenizer.eval()
        self.image_size, self.batch_size, self.seed = image_size, batch_size, seed
        self.symmetries = symmetries

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.finish(self.drawing()(step))

    def drawing(self) -> Callable[[int], Drawn]:
        return partial(draw_step, self.seed, self.batch_size // self.symmetries, self.image_size)

    def finish(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        images, labels = drawn
        views = [apply_symmetry(images, number) for number in range(self.symmetries)]
        return self.encode(np.concatenate(views)), torch.from_numpy(labels).repeat(self.symmetries)

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Tensor:
        """Tokens of grey `uint8 [N, S, S]`, `int64 [N, grid, grid]`, on the CPU."""
        on = device_of(self.tokenizer)
        with autocast(on):
            return self.tokenizer.encode(to_tanh_range(images).to(on)).cpu()

    def content(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer,
            "drawing": {
                "image_size": self.image_size,
                "batch_size": self.batch_size,
                "seed": self.seed,
                "symmetries": self.symmetries,
            },
        }


def label_numbers(names: Sequence[str]) -> Tensor:
    """Numbers of `LABELS`, `int64 [N]`."""
    return torch.tensor([LABELS.index(name) for name in names])


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """The values with four decimals."""
    return {name: round(value, 4) for name, value in values.items()}


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
    minutes: float | None,
    base: str | None,
    checkpoints: Path,
    output: Path,
) -> None:
    """Train for some computing time or images, and write the model as `save_maskgit` does.

    Args:
        settings: what to train, and how. With a number of images, the learning rate falls to the last one,
            and snapshots on the way make the learning curve.
        minutes: computing time of all legs together; a leg goes on from the last one's state. None: no limit.
        base: `shipped` or the folder of an earlier training: its weights are the start, and its images count;
            with another seed, other images are drawn. None: random weights.
        checkpoints: folder of that state.
        output: folder of the model, in half precision, with its card (`config.json`), which contains
            the learning curve.
    """
    tokenizer = load_shipped()
    batches = DrawnTokens(
        tokenizer, settings.image_size, settings.batch_size, settings.seed, settings.symmetries
    )
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
        steps=settings.steps or 1,
        schedule="constant" if settings.steps is None else "cosine",
        learning_rate=settings.learning_rate,
        warmup_steps=50 if settings.steps is None else min(500, settings.steps // 10),
        label_smoothing=0.0,
        ema_decay=0.995,
    )
    module = MaskGITLightning(model, config)
    clock = ComputingTime(None if minutes is None else 60 * minutes)
    snapshots = Snapshots(checkpoints / FOLDER, CURVE_POINTS) if settings.steps else None
    history = fit(
        module,
        batches,
        steps=settings.steps,
        epoch_steps=settings.checkpoint_steps,
        seed=settings.seed,
        checkpoint_directory=checkpoints,
        snapshots=snapshots,
        clock=clock,
    )
    curve = []
    for step, path in snapshots.written() if snapshots else ():
        if step == module.step:  # the end is measured last
            continue
        load_snapshot(model.eval(), path)
        curve.append({"images_seen": step * settings.batch_size, **rounded(held_out_losses(model, batches))})
    module.average.copy_to(model)
    write_base(model.eval(), settings, batches, module.step, clock, base, output, curve)
    pd.DataFrame(history).to_csv(output / "losses.csv", index=False, float_format="%.5g")


def write_base(
    model: MaskGIT,
    settings: MaskGITPretrainSettings,
    batches: DrawnTokens,
    step: int,
    clock: ComputingTime,
    base: str | None,
    output: Path,
    points: Sequence[Mapping[str, float]],
) -> None:
    """Measure the model on held-out images, and write it with its card.

    Args:
        model: in full precision.
        settings: of the training.
        batches: of the training.
        step: of the training.
        clock: of the training.
        base: what it started from.
        output: folder to write.
        points: of the learning curve before its end, by the images that this training has seen.
    """
    before = images_seen_before(base)
    seen = before + step * settings.batch_size
    row = {"images_seen": seen, "computing_minutes": round(clock.seconds / 60, 1)}
    row |= rounded(held_out_losses(model, batches))
    start = output if output.is_dir() else base_folder(base)
    curve = read_json(start / CONFIG).get("curve", []) if start is not None else []
    for point in [*({**point, "images_seen": before + point["images_seen"]} for point in points), row]:
        curve = extended(curve, point)
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
                "machine": machine_name(),
                "command": command_of("maskgit", settings, row["computing_minutes"], base),
            }
            | row,
        )
        Vocabulary.full(model.config.codebook_size).save(folder)
    print(f"{output}: {row}", flush=True)
