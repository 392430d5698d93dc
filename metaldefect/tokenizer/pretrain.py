"""Train base weights on natural photographs and procedural metal that never repeats, without real metal.

Fine-tuning starts from such weights, so its *before* and *after* are both real models.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from metaldefect.artifacts import atomic_file, read_json, sha256_file, write_json
from metaldefect.backbones import pooled_features
from metaldefect.config import Config
from metaldefect.errors import UserError
from metaldefect.hardware import device, machine_name
from metaldefect.images import U8
from metaldefect.ingest.natural import Natural, natural_photographs, natural_source
from metaldefect.metrics.blocks import block_ratio
from metaldefect.metrics.generation import kid
from metaldefect.metrics.reconstruction import codebook_use
from metaldefect.procedural.stream import draw_varied
from metaldefect.tokenizer.checkpoints import load_strict
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.evaluation import Distance, reconstruct
from metaldefect.tokenizer.lightning_module import VQLightning
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import refit_codes, refit_outwards, start_from_images
from metaldefect.tokenizer.training_config import PretrainSettings, VQTrainingConfig
from metaldefect.training.callbacks import ComputingTime
from metaldefect.training.data import LazyImages
from metaldefect.training.snapshot_files import FOLDER, load_snapshot
from metaldefect.training.snapshots import Snapshots
from metaldefect.training.trainer import fit

START_IMAGES = 1000  # images of which codebook and patch path are fitted before training
HELD_OUT_EVERY = 20  # photographs: every 20th is never trained on
HELD_OUT_SEED = 1_000_003  # of a stream of metal that no training draws from
HELD_OUT_METAL = 64
CURVE_POINTS = 6  # with the start and the end, where the number of images is known


def random_view(image: U8, generator: torch.Generator) -> Tensor:
    """Apply a random crop, contrast and one of the eight symmetries of the square to `uint8 [S, S]`."""

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    def integer(below: int) -> int:
        return int(torch.randint(0, below, (), generator=generator))

    size = image.shape[-1]
    side = int(size * (0.6 + 0.4 * uniform()))
    top, left = integer(size - side + 1), integer(size - side + 1)
    crop = torch.from_numpy(image)[top : top + side, left : left + side][None, None].float()
    crop = torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0, 0]
    gain, offset = 0.6 + 0.6 * uniform(), 40.0 * (uniform() - 0.5)
    crop = ((crop - crop.mean()) * gain + crop.mean() + offset).clamp(0, 255).round().to(torch.uint8)
    crop = torch.rot90(crop, integer(4))
    return crop.flip(0) if uniform() < 0.5 else crop


def read_natural(natural: Natural) -> U8:
    """A natural image in grey: the mean of its channels."""
    return np.rint(natural.read().mean(axis=-1)).astype(np.uint8)


class DrawnImages:
    """Batches `uint8 [B, size, size]`: in turn a random view of a photograph, and metal drawn for the step.

    Args:
        photographs: to choose from.
        size: side of the images in pixels.
        batch_size: images per step.
        seed: of the choice, the views and the drawings.
    """

    def __init__(self, photographs: Sequence[Natural], size: int, batch_size: int, seed: int) -> None:
        self.photographs, self.size = photographs, size
        self.batch_size, self.seed = batch_size, seed

    def batch(self, step: int) -> Tensor:
        return self.finish(self.draw(step))

    def draw(self, step: int) -> U8:
        """The images of a step, as an array."""
        numbers = range(step * self.batch_size, (step + 1) * self.batch_size)
        return np.stack([self.image(number).numpy() for number in numbers])

    def drawing(self) -> Callable[[int], U8]:
        return self.draw

    def finish(self, drawn: U8) -> Tensor:
        return torch.from_numpy(drawn)

    def image(self, number: int) -> Tensor:
        """Image `number` of the training, `uint8 [size, size]`."""
        if number % 2 and self.photographs:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            chosen = int(torch.randint(len(self.photographs), (), generator=generator))
            return random_view(read_natural(self.photographs[chosen]), generator)
        return torch.from_numpy(draw_varied(self.seed, number, self.size)[0])

    def content(self) -> dict[str, Any]:
        readers = [one.read for one in self.photographs]
        return {
            "photographs": LazyImages(readers, (self.size, self.size, 3), kept_bytes=0),
            "drawing": {"size": self.size, "batch_size": self.batch_size, "seed": self.seed},
        }


def split_photographs(photographs: Sequence[Natural]) -> tuple[list[Natural], list[Natural]]:
    """Those to train on, and those held out: all crops of every `HELD_OUT_EVERY`th photograph."""
    names = sorted({one.photograph for one in photographs})
    out = set(names[::HELD_OUT_EVERY])
    return (
        [one for one in photographs if one.photograph not in out],
        [one for one in photographs if one.photograph in out],
    )


def start_model(settings: PretrainSettings, base: Path | None, images: DrawnImages) -> VQModel:
    """A model with its start weights.

    Args:
        settings: its shape.
        base: weights to start from; their codebook is fitted anew, unless only the decoder trains. None: the
            closed-form start.
        images: of the training; the first ones serve for fitting.
    """
    torch.manual_seed(settings.seed)
    model = VQModel(named_config(settings.tokenizer))
    chosen = np.stack([images.image(-1 - number).numpy() for number in range(START_IMAGES)])
    if base is None:
        start_from_images(model, chosen, settings.seed)
        return model
    if not base.is_file():
        raise UserError(f"{base} does not exist")
    load_strict(model, safetensors.torch.load_file(base), str(base))
    if settings.mode == "full":
        refit_codes(model.eval(), chosen, settings.seed)
        refit_outwards(model, chosen)
    return model


def training_config(settings: PretrainSettings) -> VQTrainingConfig:
    """The settings of the training."""
    return VQTrainingConfig(
        steps=settings.steps or 10**9,  # without a number of images, the clock ends the training
        schedule="constant" if settings.steps is None else "cosine",
        learning_rate=settings.learning_rate,
        warmup_steps=50 if settings.steps is None else min(200, settings.steps // 10),
        mode=settings.mode,
        discriminator_start=settings.discriminator_start // settings.batch_size,
        ema_decay=0.998,
        perceptual_weight=0.5,
        ssim_weight=1.0,
        edge_weight=2.0,
        codebook_decay=0.99,
    )


def pretrain(
    settings: PretrainSettings,
    minutes: float | None,
    natural: Path | None,
    base: Path | None,
    checkpoints: Path,
    output: Path,
) -> None:
    """Train for some computing time or images, and write weights in half precision with their card.

    Args:
        settings: what to train, and how. With a number of images, the learning rate falls to the last one,
            and snapshots on the way make the learning curve.
        minutes: computing time of all legs together; a leg goes on from the last one's state. None: no limit.
        natural: folder of photographs; None uses those in installed packages.
        base: weights to start from, the output of another training; None: the closed-form start.
        checkpoints: folder of the state between legs.
        output: the `.safetensors` file; the card with the learning curve is the `.json` next to it.
    """
    training, held_out = split_photographs(natural_photographs(natural, settings.image_size, None))
    batches = DrawnImages(training, settings.image_size, settings.batch_size, settings.seed)
    before = read_json(base.with_suffix(".json")) if base else {}
    model = start_model(settings, base, batches)
    if device().type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    module = VQLightning(model, training_config(settings))
    clock = ComputingTime(None if minutes is None else 60 * minutes)
    snapshots = Snapshots(checkpoints / FOLDER, CURVE_POINTS) if settings.steps else None
    fit(
        module,
        batches,
        steps=settings.steps,
        epoch_steps=settings.checkpoint_steps,
        seed=settings.seed,
        checkpoint_directory=checkpoints,
        snapshots=snapshots,
        clock=clock,
    )
    module.average.copy_to(module.model)
    # First the weights: who waits for them need not wait for the measuring
    write_weights(module.model, output)
    seen = before.get("images_seen", 0)
    curve = before.get("curve", [])
    if output.with_suffix(".json").is_file():
        curve = read_json(output.with_suffix(".json")).get("curve", [])
    for step, path in snapshots.written() if snapshots else ():
        if step == module.step:  # the end is measured last
            continue
        load_snapshot(module.model, path)
        point = measure(module.model, held_out, settings.image_size, module.config.perceptual)
        curve = extended(curve, {"images_seen": seen + step * settings.batch_size, **point})
    module.average.copy_to(module.model)
    row: dict[str, Any] = {
        "images_seen": seen + module.step * settings.batch_size,
        "computing_minutes": round(clock.seconds / 60, 1),
        **measure(module.model, held_out, settings.image_size, module.config.perceptual),
    }
    curve = extended(curve, row)
    card = {
        "what": "base weights of the tokenizer: photographs and procedural metal, no real metal",
        "tokenizer": module.model.config.model_dump(mode="json"),
        "data": f"grey: {natural_source(natural)}, and procedural metal drawn for each step, in equal parts",
        "image_size": settings.image_size,
        "settings": settings.model_dump(mode="json"),
        "perceptual": module.perceptual_name,
        **row,
        "curve": curve,
        "legs": clock.legs,
        "machine": machine_name(),
        "command": command_of("tokenizer", settings, row["computing_minutes"], base),
        "sha256": sha256_file(output),
        **({"base": {key: before[key] for key in ("images_seen", "command", "sha256")}} if base else {}),
    }
    write_json(output.with_suffix(".json"), card)
    print(f"{output}: {row}", flush=True)


def extended(curve: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The curve up to the row, which replaces earlier points of as many images."""
    return [*(point for point in curve if point["images_seen"] < row["images_seen"]), row]


def command_of(model: str, settings: Config, minutes: float, base: Path | str | None) -> str:
    """The command of a training with every setting that is not the default; `minutes` where no images are."""
    chosen = settings.model_dump(mode="json", exclude_defaults=True)
    if "images" not in chosen:
        chosen["minutes"] = minutes
    if base:
        chosen["base"] = Path(base).name
    words = [
        word
        for name, value in chosen.items()
        for word in (f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value))
    ]
    return shlex.join(["metaldefect", "pretrain", model, *words])


def write_weights(model: VQModel, output: Path) -> None:
    """Write the state dict in half precision, atomically."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary:
        half = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        safetensors.torch.save_file(half, temporary)


def measure(model: VQModel, photographs: Sequence[Natural], size: int, perceptual: str) -> dict[str, Any]:
    """Means over held-out photographs and metal of another stream, by kind."""
    distance = Distance.named(perceptual)
    kinds = {
        "metal": [draw_varied(HELD_OUT_SEED, number, size)[0] for number in range(HELD_OUT_METAL)],
        "natural": [read_natural(one) for one in photographs],
    }
    found: dict[str, Any] = {}
    for kind, images in kinds.items():
        if not images:
            continue
        originals = np.stack(images)
        result = reconstruct(model, originals, distance)
        cell = size // result.tokens.shape[1]
        means = {str(name): round(float(result.scores[name].mean()), 4) for name in result.scores}
        if len(originals) > 1:
            means["rkid"] = round(kid(pooled_features(originals), pooled_features(result.images)), 4)
        found[kind] = means | {
            "block_ratio": round(block_ratio(result.images, cell), 3),
            "perplexity": round(codebook_use(result.tokens, model.config.codebook_size)["perplexity"], 1),
        }
    return found
