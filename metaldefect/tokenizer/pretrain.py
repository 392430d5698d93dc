"""Train base weights: natural photographs and procedural metal, no real metal.

`metaldefect pretrain-tokenizer` made the weights that ship with the
package; fine-tuning starts from them, so its *before* and *after* are both real models.
"""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from metaldefect.artifacts import atomic_file, sha256_file, write_json
from metaldefect.hardware import cpu_name
from metaldefect.images import U8
from metaldefect.ingest.natural import load_natural_images, natural_source
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.images import generate_defect_image, generate_normal_image
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.lightning_module import VQLightning, VQTrainingConfig
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import start_from_images
from metaldefect.training.trainer import fit

START_IMAGES = 1000  # images behind the closed-form start


class RandomViews(Dataset[torch.Tensor]):
    """Grey images seen through a random crop, contrast and one of the eight symmetries of the square.

    Numbers come from torch's generator, which training seeds by epoch, so a resumed run sees the same views.
    """

    def __init__(self, images: U8) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = self.images[index]
        size = image.shape[-1]
        side = int(size * (0.6 + 0.4 * float(torch.rand(()))))
        top, left = (int(torch.randint(0, size - side + 1, ())) for _ in range(2))
        crop = image[top : top + side, left : left + side][None, None].float()
        crop = torch.nn.functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0, 0]
        gain = 0.6 + 0.6 * float(torch.rand(()))
        offset = 40.0 * (float(torch.rand(())) - 0.5)
        crop = ((crop - crop.mean()) * gain + crop.mean() + offset).clamp(0, 255).round().to(torch.uint8)
        crop = torch.rot90(crop, int(torch.randint(0, 4, ())))
        return crop.flip(0) if torch.rand(()) < 0.5 else crop


def pretraining_images(natural: Path | None, metal: int, size: int, seed: int) -> tuple[U8, list[float]]:
    """Grey natural photographs and `metal` procedural images, with weights that give both half the draws."""
    photographs = np.rint(load_natural_images(natural, size, None).mean(axis=-1)).astype(np.uint8)
    made = np.empty((metal, size, size), np.uint8)
    for i in tqdm(range(metal), desc="procedural metal", unit="image"):
        rng = np.random.default_rng([seed, i])
        label = [*DEFECT_CLASSES, None][i % (len(DEFECT_CLASSES) + 1)]
        made[i] = generate_defect_image(label, rng, size)[0] if label else generate_normal_image(rng, size)
    weights = [1.0 / len(photographs)] * len(photographs) + [1.0 / metal] * metal
    return np.concatenate([photographs, made]), weights


@dataclass(frozen=True)
class PretrainSettings:
    """What shapes the weights; the defaults made those that are shipped."""

    natural: Path | None = None
    metal: int = 1400
    tokenizer: str = "vq16_small"
    size: int = 256
    steps: int = 1500
    batch_size: int = 8
    learning_rate: float = 4e-4
    seed: int = 0

    def command(self) -> str:
        """The command that trains with these settings; folders are named without their place."""
        words = ["metaldefect", "pretrain-tokenizer"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                shown = value.name if isinstance(value, Path) else str(value)
                words += [f"--{field.name.replace('_', '-')}", shown]
        return shlex.join(words)


def pretrain(settings: PretrainSettings, checkpoints: Path, output: Path) -> None:
    """Train the weights and write them, in half precision, with their card.

    Args:
        settings: what shapes the weights.
        checkpoints: folder of the state that a killed run resumes.
        output: the `.safetensors` file; the card is the `.json` beside it.
    """
    torch.manual_seed(settings.seed)
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
    model = VQModel(config)
    if config.patch_path:
        shares = torch.tensor(weights)
        chosen = torch.multinomial(shares, START_IMAGES, replacement=True).numpy()
        start_from_images(model, images[chosen], settings.seed)
    module = VQLightning(model, training)
    history = fit(
        module,
        RandomViews(images),
        steps=settings.steps,
        batch_size=settings.batch_size,
        epoch_steps=50,
        seed=settings.seed,
        checkpoint_directory=checkpoints,
        weights=weights,
    )
    module.average.copy_to(module.model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary:
        half = {k: v.half().contiguous() for k, v in module.model.state_dict().items()}
        safetensors.torch.save_file(half, temporary)
    card = {
        "tokenizer": config.to_dict(),
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
