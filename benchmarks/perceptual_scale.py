"""`python -m benchmarks.perceptual_scale`: fit the factor that scales the LPIPS stand-in to LPIPS.

Draws procedural metal, distorts it in the ways in which a tokenizer fails, and measures each pair with LPIPS
(SqueezeNet) and with the stand-in. The factor is the ratio of the geometric means, which minimises the
squared error of the logarithm; `metaldefect.tokenizer.perceptual` holds it as `LPIPS_SCALE`. Needs the
SqueezeNet weights.
"""

from __future__ import annotations

import argparse
import functools
import io
import re
import sys
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from tqdm import tqdm

from benchmarks.results import add_results_argument, publish
from metaldefect.images import U8, from_tanh_range, to_tanh_range
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.images import (
    generate_defect_image,
    generate_normal_image,
    generate_plate_image,
    keyed_generator,
)
from metaldefect.procedural.plates import PLATE_CLASSES
from metaldefect.tokenizer.checkpoints import load_base
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.perceptual import ALTERNATIVE, LPIPS_SCALE, perceptual_loss

SIZE = 256


def draw_images(per_kind: int) -> U8:
    """Procedural metal, `uint8 [N, 256, 256]`: `per_kind` images of each class and of good metal."""
    images = []
    for number in range(per_kind):
        for label in DEFECT_CLASSES:
            images.append(generate_defect_image(label, keyed_generator(0, label, number), SIZE)[0])
        for label in PLATE_CLASSES:
            images.append(generate_plate_image(label, keyed_generator(0, label, number), SIZE)[0])
        images.append(generate_normal_image(keyed_generator(0, "good", number), SIZE))
    return np.stack(images)


def blur(image: U8, radius: float) -> U8:
    """Gaussian blur of `uint8 [H, W]`."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def average_blocks(image: U8, side: int) -> U8:
    """Replace each block of `side` x `side` pixels of `uint8 [H, W]` by its mean."""
    blocks = image.reshape(image.shape[0] // side, side, image.shape[1] // side, side)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8).repeat(side, axis=0).repeat(side, axis=1)


def compress(image: U8, quality: int) -> U8:
    """`uint8 [H, W]` after JPEG compression."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def add_noise(image: U8, deviation: float) -> U8:
    """Add Gaussian noise of `deviation` grey levels to `uint8 [H, W]`, the same noise on every call."""
    noise = np.random.default_rng(0).normal(0.0, deviation, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


DISTORTIONS: dict[str, Callable[[U8], U8]] = {
    "blur, radius 1": lambda image: blur(image, 1),
    "blur, radius 2": lambda image: blur(image, 2),
    "blocks of 2": lambda image: average_blocks(image, 2),
    "blocks of 4": lambda image: average_blocks(image, 4),
    "blocks of 8": lambda image: average_blocks(image, 8),
    "JPEG, quality 5": lambda image: compress(image, 5),
    "JPEG, quality 10": lambda image: compress(image, 10),
    "JPEG, quality 30": lambda image: compress(image, 30),
    "noise of 5 grey levels": lambda image: add_noise(image, 5),
}


def distort_all(distort: Callable[[U8], U8], images: U8) -> U8:
    """Apply `distort` to each image of `uint8 [N, H, W]`."""
    return np.stack([distort(image) for image in images])


@torch.no_grad()
def reconstruct(images: U8) -> U8:
    """The images after encoding and decoding by the shipped tokenizer."""
    model = load_base("shipped", named_config("vq16_small")).eval()
    batches = to_tanh_range(images).split(4)
    return from_tanh_range(torch.cat([model(batch).images for batch in batches]))


@torch.no_grad()
def measure(network: torch.nn.Module, images: U8, spoilt: U8) -> torch.Tensor:
    """The distance of each pair, `float32 [N]`."""
    pairs = zip(to_tanh_range(spoilt).split(4), to_tanh_range(images).split(4), strict=True)
    return torch.cat([network(a, b) for a, b in pairs])


def main() -> None:
    """Print one row per distortion, then the factor."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perceptual_scale", description=__doc__)
    add_results_argument(parser, "perceptual_scale")
    arguments = parser.parse_args()
    lpips, name = perceptual_loss("squeeze")
    if name == ALTERNATIVE:
        sys.exit("LPIPS's SqueezeNet weights are needed: set METALDEFECT_WEIGHTS to a folder that holds them")
    stand_in = perceptual_loss(ALTERNATIVE)[0]
    images = draw_images(2)
    ways: dict[str, Callable[[U8], U8]] = {
        name: functools.partial(distort_all, distort) for name, distort in DISTORTIONS.items()
    }
    ways["the shipped tokenizer"] = reconstruct
    logarithms, rows = [], []
    for label, spoil in tqdm(ways.items(), unit="distortion", leave=False):
        spoilt = spoil(images)
        truth, found = measure(lpips, images, spoilt), measure(stand_in, images, spoilt) / LPIPS_SCALE
        logarithms.append((truth / found).log())
        ratio = float(logarithms[-1].mean().exp())
        rows.append(f"{label:<28}{float(truth.mean()):>8.3f}{float(found.mean()):>10.3f}{ratio:>8.4f}")
    print(f"{'distortion':<28}{'LPIPS':>8}{'stand-in':>10}{'ratio':>8}", *rows, sep="\n")
    figures = {"factor": float(torch.cat(logarithms).mean().exp())}
    figures |= {
        "factor_" + re.sub(r"[^a-z0-9]+", "_", label.lower()): float(ratios.mean().exp())
        for label, ratios in zip(ways, logarithms, strict=True)
    }
    publish(arguments.results, "perceptual_scale", figures, {"images_per_distortion": len(images)})


if __name__ == "__main__":
    main()
