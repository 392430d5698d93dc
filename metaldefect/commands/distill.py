"""`metaldefect distill`: train a teacher for the detector and write its card and loss curve."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metaldefect.artifacts import write_json
from metaldefect.backbones import LITE0, load_backbone
from metaldefect.efficientad.distillation import Distilled, distil, evaluate
from metaldefect.efficientad.distillation_config import DistillationConfig
from metaldefect.efficientad.distillation_data import DistillationImages, distillation_images
from metaldefect.efficientad.teacher_targets import PatchFeatures
from metaldefect.efficientad.teacher_weights import (
    load_target_statistics,
    load_teacher,
    read_card,
    save_teacher,
)
from metaldefect.errors import UserError
from metaldefect.hardware import machine_name, set_threads
from metaldefect.image_files import IMAGE_SUFFIXES, is_hidden_name
from metaldefect.images import read_grey
from metaldefect.ingest.natural import natural_photographs, natural_source
from metaldefect.ingest.samples import TABLE_NAME, read_table
from metaldefect.training.data import LazyImages


def metal_images(folders: Sequence[Path], size: int) -> LazyImages:
    """All images under the folders, sorted by path, as lazily read grey `uint8 [N, size, size]`.

    Skips masks: files in a `ground_truth` folder, and PNGs beside a JPEG of the same stem (the layout of
    magnetic tiles). Of a merged dataset (a folder with `samples.parquet`), reads only the training split,
    so the teacher never sees test images.

    Raises:
        UserError: a folder is missing or holds no image.
    """
    found: list[Path] = []
    for folder in folders:
        paths = (
            training_split(folder)
            if (folder / TABLE_NAME).is_file()
            else sorted(
                path
                for path in Path(folder).rglob("*")
                if path.suffix.lower() in IMAGE_SUFFIXES
                and not any(
                    "ground" in part.lower() or is_hidden_name(part)
                    for part in path.relative_to(folder).parts
                )
                and not (path.suffix.lower() == ".png" and path.with_suffix(".jpg").exists())
            )
        )
        if not paths:
            raise UserError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        found += paths
    return LazyImages([partial(read_grey, path, size) for path in found], (size, size))


def earlier_training(base: Path, config: DistillationConfig, backbone: str) -> dict[str, Any]:
    """Read the card of the weights to start from.

    Raises:
        UserError: the weights have another size or backbone than this run.
    """
    card = read_card(base)
    for name, wanted, found in (
        ("size", config.size, card["config"]["size"]),
        ("backbone", backbone, card["backbone"]),
    ):
        if wanted != found:
            raise UserError(f"{base} has {name} {found}, not {wanted}: choose other weights to start from")
    return card


def training_split(folder: Path) -> list[Path]:
    """Image paths of a merged dataset's training split, sorted."""
    table = read_table(folder / TABLE_NAME)
    return sorted(folder / path for path in table.loc[table["split"] == "train", "path"])


def distil_and_measure(
    images: DistillationImages,
    config: DistillationConfig,
    features: PatchFeatures,
    checkpoint_directory: Path | None,
    base: Path | None = None,
) -> tuple[Distilled, dict[str, Any]]:
    """Train a teacher on all but the held-out photographs and scenes, and measure it on those.

    Args:
        images: natural and metal images.
        config: how to train.
        features: computes the targets.
        checkpoint_directory: where the run saves its state and resumes from.
        base: weights to start from, with the statistics of their targets.

    Returns:
        The teacher, and its results on the held-out images: their number by kind, and the loss of each
        kind that has any.
    """
    training, unseen = images.split()
    start = (load_teacher(base), load_target_statistics(base)) if base is not None else None
    distilled = distil(training, features, config, checkpoint_directory, start)
    statistics = (distilled.target_mean, distilled.target_std)
    numbers: dict[str, Any] = evaluate(distilled.teacher, unseen, features, statistics, config.image_size)
    numbers |= {"held_out_natural": len(unseen.natural), "held_out_metal": len(unseen.metal)}
    return distilled, numbers


def run_distillation(
    config: DistillationConfig,
    output: Path,
    natural: Path | None,
    metal: Sequence[Path],
    backbone: str = LITE0,
    taps: Sequence[str] | None = None,
    base: Path | None = None,
) -> None:
    """Distil a teacher and write its weights, card and loss curve.

    Args:
        config: how to train.
        output: the `.safetensors` file; a killed run resumes from `.<output>.training`.
        natural: folder of natural images; None uses the packaged photographs.
        metal: folders of metal images.
        backbone: network whose features the teacher learns.
        taps: modules of the backbone, fine to coarse; None uses `load_backbone`'s default.
        base: weights to start from.
    """
    set_threads()
    side = 2 * config.image_size
    images = distillation_images(natural_photographs(natural, side, None), metal_images(metal, side), side)
    features = PatchFeatures(load_backbone(backbone, taps))
    before = earlier_training(base, config, backbone) if base else {}
    state = output.with_name(f".{output.name}.training")
    distilled, numbers = distil_and_measure(images, config, features, state, base)
    card = {
        "what": f"PDN-{config.size} teacher of EfficientAD, distilled from {backbone}",
        "backbone": backbone,
        "taps": list(features.backbone.taps),
        "data": {
            "natural": natural_source(natural),
            "natural_images": len(images.natural),
            "metal": [folder.name for folder in metal],
            "metal_images": len(images.metal),
        },
        # Totals over this run and the runs that trained its base weights
        "images_seen": before.get("images_seen", 0) + distilled.images_seen,
        "computing_minutes": round(before.get("computing_minutes", 0.0) + distilled.seconds / 60, 2),
        "steps": before.get("steps", 0) + distilled.steps,
        **({"base": before} if before else {}),
        "held_out": numbers,
        "legs": distilled.legs,
        "config": config.model_dump(mode="json"),
        "command": shlex.join(["metaldefect", *sys.argv[1:]]),
        "machine": machine_name(),
    }
    statistics = (distilled.target_mean, distilled.target_std)
    save_teacher(output, distilled.teacher, card, torch.float16, statistics)
    write_json(output.with_suffix(".history.json"), distilled.history)
    shutil.rmtree(state, ignore_errors=True)
    for kind in ("natural", "metal"):
        if not numbers[f"held_out_{kind}"]:
            print(f"no {kind} image is held out, so there is no loss on {kind} images")
    print(f"{output}: {distilled.images_seen} images seen, held out {numbers}")
