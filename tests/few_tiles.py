"""A folder of a few procedural images in the layout of the magnetic tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image


def save_few_tiles(root: Path) -> Path:
    """Write 30 good images and 3 with a scratch as `MT_Free` and `MT_Crack`; return `root`."""
    for label in ("Free", "Crack"):
        (root / f"MT_{label}/Imgs").mkdir(parents=True)
    for k in range(30):
        Image.fromarray(generate_normal_image(k, 130)).save(root / f"MT_Free/Imgs/{k:03d}.jpg", quality=95)
    for k in range(3):
        image, mask = generate_anomalous_image("scratch", np.random.default_rng(k), 130)
        Image.fromarray(image).save(root / f"MT_Crack/Imgs/{k}.jpg", quality=95)
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"MT_Crack/Imgs/{k}.png")
    return root
