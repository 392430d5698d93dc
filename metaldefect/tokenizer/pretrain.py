"""Train base weights on natural photographs and procedural metal, without real metal.

`metaldefect pretrain-tokenizer` made the weights in this package. Fine-tuning starts from them, so its
*before* and *after* are both real models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from metaldefect.artifacts import atomic_file, sha256_file, write_json
from metaldefect.hardware import cpu_name
from metaldefect.images import U8
from metaldefect.ingest.natural import Natural, natural_photographs, natural_source
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.images import generate_defect_image, generate_normal_image
from metaldefect.tokenizer.config import VQConfig, named_config
from metaldefect.tokenizer.lightning_module import VQLightning
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import start_from_images
from metaldefect.tokenizer.training_config import PretrainSettings, VQTrainingConfig
from metaldefect.training.callbacks import History
from metaldefect.training.data import LazyImages, SampledBatches
from metaldefect.training.trainer import fit

START_IMAGES = 1000  # images used for the closed-form start
EPOCH_STEPS = 50


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


def pretraining_images(
    natural: Path | None, metal: int, size: int, seed: int
) -> tuple[LazyImages, list[float]]:
    """Grey natural photographs and `metal` procedural images; the weights give each kind half the draws."""
    photographs = natural_photographs(natural, size, None)
    readers: list[Callable[[], U8]] = [partial(read_natural, one) for one in photographs]
    readers += [partial(draw_metal, number, size, seed) for number in range(metal)]
    weights = [1.0 / len(photographs)] * len(photographs) + [1.0 / metal] * metal
    return LazyImages(readers, (size, size)), weights


def read_natural(natural: Natural) -> U8:
    """A natural image in grey: the mean of its channels."""
    return np.rint(natural.read().mean(axis=-1)).astype(np.uint8)


def draw_metal(number: int, size: int, seed: int) -> U8:
    """Draw one of a series of procedural images: each class in turn, then one without a defect."""
    rng = np.random.default_rng([seed, number])
    label = [*DEFECT_CLASSES, None][number % (len(DEFECT_CLASSES) + 1)]
    return generate_defect_image(label, rng, size)[0] if label else generate_normal_image(rng, size)


def train_base(
    images: LazyImages,
    weights: list[float],
    config: VQConfig,
    training: VQTrainingConfig,
    batch_size: int,
    seed: int,
    checkpoint_directory: Path | None,
) -> tuple[VQLightning, History]:
    """Train a new tokenizer; return its module, whose model has the averaged weights, and the history."""
    torch.manual_seed(seed)
    model = VQModel(config)
    if config.patch_path:
        shares = torch.tensor(weights)
        chosen = torch.multinomial(shares, START_IMAGES, replacement=True)
        start_from_images(model, images.stack(chosen.tolist()), seed)
    module = VQLightning(model, training)
    history = fit(
        module,
        SampledBatches(images, batch_size, seed, weights, random_view),
        steps=training.steps,
        epoch_steps=EPOCH_STEPS,
        seed=seed,
        checkpoint_directory=checkpoint_directory,
    )
    module.average.copy_to(module.model)
    return module, history


def pretrain(settings: PretrainSettings, checkpoints: Path, output: Path) -> None:
    """Train the weights and write them in half precision, with their card.

    Args:
        settings: what determines the weights.
        checkpoints: folder of the state from which a killed run resumes.
        output: the `.safetensors` file; the card is the `.json` next to it.
    """
    images, weights = pretraining_images(settings.natural, settings.metal, settings.size, settings.seed)
    config = named_config(settings.tokenizer)
    training = VQTrainingConfig(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        discriminator_start=int(0.4 * settings.steps),
        ema_decay=0.995,
        perceptual_weight=0.5,
        ssim_weight=1.0,
        edge_weight=2.0,
        codebook_decay=0.99 if config.patch_path else None,
        data_initialised_codebook=not config.patch_path,
    )
    module, history = train_base(
        images, weights, config, training, settings.batch_size, settings.seed, checkpoints
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary:
        half = {k: v.half().contiguous() for k, v in module.model.state_dict().items()}
        safetensors.torch.save_file(half, temporary)
    card = {
        "tokenizer": config.model_dump(mode="json"),
        "data": f"grey: {natural_source(settings.natural)};"
        f" {settings.metal} procedural metal images of this package",
        "images_seen": settings.steps * settings.batch_size,
        "image_size": settings.size,
        "perceptual": module.perceptual_name,
        "last_losses": {key: round(value, 5) for key, value in history[-1].items()},
        "command": settings.command(),
        "machine": cpu_name(),
        "cpu_minutes": round(time.process_time() / 60, 1),
        "sha256": sha256_file(output),
    }
    write_json(output.with_suffix(".json"), card)
    print(json.dumps(card, indent=2))
