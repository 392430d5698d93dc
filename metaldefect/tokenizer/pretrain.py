"""Train base weights: natural photographs and procedural metal, no real metal.

`python -m metaldefect.tokenizer.pretrain --natural DIR --steps N` made the weights that ship with the
package; fine-tuning starts from them, so its *before* and *after* are both real models.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
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
from metaldefect.tokenizer.checkpoints import SHIPPED
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


def command_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The command with what shapes the result: options that differ from the defaults, folders by name."""
    words = ["python", "-m", "metaldefect.tokenizer.pretrain"]
    for name, value in vars(args).items():
        if name not in ("checkpoints", "output") and value != parser.get_default(name):
            shown = value.name if isinstance(value, Path) else str(value)
            words += [f"--{name.replace('_', '-')}", shown]
    return shlex.join(words)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m metaldefect.tokenizer.pretrain", description=__doc__)
    parser.add_argument("--natural", type=Path, help="folder of photographs (default: those in packages)")
    parser.add_argument("--metal", type=int, default=1400, help="number of procedural images")
    parser.add_argument("--tokenizer", default="vq16_small", help="named shape")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, default=Path(".checkpoints/pretrain_vq"))
    parser.add_argument("--output", type=Path, default=SHIPPED)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images, weights = pretraining_images(args.natural, args.metal, args.size, args.seed)
    config = named_config(args.tokenizer)
    training = VQTrainingConfig(
        steps=args.steps,
        learning_rate=args.learning_rate,
        discriminator_start=int(0.4 * args.steps),
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
        start_from_images(model, images[chosen], args.seed)
    module = VQLightning(model, training)
    history = fit(
        module,
        RandomViews(images),
        steps=args.steps,
        batch_size=args.batch_size,
        epoch_steps=50,
        seed=args.seed,
        checkpoint_directory=args.checkpoints,
        weights=weights,
    )
    module.average.copy_to(module.model)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(args.output) as temporary:
        half = {k: v.half().contiguous() for k, v in module.model.state_dict().items()}
        safetensors.torch.save_file(half, temporary)
    card = {
        "tokenizer": config.to_dict(),
        "data": f"grey: {natural_source(args.natural)}; {args.metal} procedural metal images of this package",
        "images_seen": args.steps * args.batch_size,
        "image_size": args.size,
        "perceptual": module.perceptual_name,
        "last_losses": {key: round(value, 5) for key, value in history[-1].items()},
        "command": command_of(args, parser),
        "machine": cpu_name(),
        "cpu_minutes": round(time.process_time() / 60, 1),
        "sha256": sha256_file(args.output),
    }
    write_json(args.output.with_suffix(".json"), card)
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
