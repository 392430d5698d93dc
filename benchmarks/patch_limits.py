"""`python -m benchmarks.patch_limits`: how well patch codes without a network can describe metal.

Yardsticks for a tokenizer of 256 tokens per image, fitted to the train images and scored on the held-out
images of `data/merged`: the nearest of 1,024 k-means patches, and a patch's first k principal components
without quantisation. No code of k numbers per patch without context can beat the latter. Writes
`benchmarks/results/patch_limits.json`; the last line printed is JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from benchmarks.results import add_results_argument, publish
from metaldefect.hardware import set_threads
from metaldefect.images import U8
from metaldefect.ingest.loading import held_out_rows, load_images
from metaldefect.metrics.reconstruction import edge_iou, psnr, ssim

CODES = 1024
COMPONENTS = (1, 2, 4, 8)
FIT_PATCHES = 200_000


def patches(images: U8, side: int) -> Tensor:
    """Cut grey `uint8 [N, H, W]` into rows `float [N * (H/side) * (W/side), side^2]`."""
    return (
        F.unfold(torch.from_numpy(images)[:, None].float(), side, stride=side).transpose(1, 2).flatten(0, 1)
    )


def images_of(rows: Tensor, count: int, size: int, side: int) -> U8:
    """Inverse of `patches`, rounded to grey levels."""
    columns = rows.view(count, -1, side**2).transpose(1, 2)
    whole = F.fold(columns, (size, size), side, stride=side)[:, 0]
    return whole.round().clamp(0, 255).byte().numpy()


def score(found: U8, originals: U8) -> dict[str, float]:
    """Mean SSIM, PSNR and Edge IoU."""
    pairs = list(zip(found, originals, strict=True))
    functions = {"ssim": ssim, "psnr": psnr, "edge_iou": edge_iou}
    return {name: float(np.mean([f(a, b) for a, b in pairs])) for name, f in functions.items()}


def limits(train: U8, test: U8, side: int) -> dict[str, dict[str, float]]:
    """Scores of k-means and of unquantised principal components, for patches of `side` pixels."""
    size = test.shape[1]
    rows, wanted = patches(train, side), patches(test, side)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:FIT_PATCHES]]
    centres = MiniBatchKMeans(CODES, batch_size=8192, n_init=1, random_state=0).fit(rows.numpy())
    nearest = torch.from_numpy(centres.cluster_centers_[centres.predict(wanted.numpy())])
    found = {f"kmeans_{CODES}": score(images_of(nearest, len(test), size, side), test)}
    mean = rows.mean(dim=0)
    axes = torch.linalg.eigh((rows - mean).t() @ (rows - mean)).eigenvectors.flip(1)
    for k in COMPONENTS:
        kept = (wanted - mean) @ axes[:, :k] @ axes[:, :k].t() + mean
        found[f"components_{k}"] = score(images_of(kept, len(test), size, side), test)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patch_limits", description=__doc__)
    parser.add_argument("--merged", type=Path, default=Path("data/merged"))
    parser.add_argument("--images", type=int, default=240, help="held-out images")
    add_results_argument(parser, "patch_limits")
    args = parser.parse_args()
    set_threads()
    table = pd.read_parquet(args.merged / "samples.parquet")
    train = table[table["split"] == "train"]
    test = held_out_rows(args.merged, "test", args.images)
    figures: dict[str, float] = {}
    for size in (256, 128):
        train_images, test_images = (
            load_images(args.merged, part, size, f"{size} px") for part in (train, test)
        )
        for code, scores in limits(train_images, test_images, side=size // 16).items():
            figures |= {f"{name}_{code}_at_{size}": value for name, value in scores.items()}
    publish(args.results, "patch_limits", figures, {"held_out_images": len(test)})


if __name__ == "__main__":
    main()
