"""Stage `distill_teacher`: the detector's teacher, distilled here or shipped, and how well it imitates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.backbones import load_backbone
from metaldefect.efficientad.distillation import distil, evaluate
from metaldefect.efficientad.distillation_config import DistillationConfig
from metaldefect.efficientad.distillation_data import DistillationImages, distillation_images
from metaldefect.efficientad.teacher_targets import PatchFeatures
from metaldefect.efficientad.teacher_weights import (
    load_target_statistics,
    load_teacher,
    read_card,
    save_teacher,
    shipped_teacher,
)
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.images import U8, resize
from metaldefect.ingest.natural import natural_photographs, natural_source
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.procedural.images import generate_normal_image
from metaldefect.training.data import LazyImages
from pipeline.params import DistillTeacher, Params
from pipeline.run import StageRun, run_stage

INSPECTION = Path("data/merged/inspection")
OUTPUT = Path("models/teacher")
WEIGHTS = "teacher.safetensors"
METRICS = Path("metrics/distill_teacher.json")
METAL_IMAGES = 64
UNSEEN_SEED = 0xD157111  # of the metal drawn to measure shipped weights


def main(params: Params, run: StageRun) -> None:
    """Write `models/teacher`, and how much backbone-feature variance it explains on unseen images."""
    section = params.distill_teacher
    features = PatchFeatures(load_backbone(section.backbone))
    history: list[dict[str, float]] = []
    if section.source == "shipped":
        path = shipped_teacher(section.size)
        card = read_card(path)
        teacher, statistics = load_teacher(path), load_target_statistics(path)
        unseen, source = unseen_by_shipped(section, card)
    else:
        images, source = training_images(section)
        training, unseen = images.split()
        distilled = distil(
            training, features, DistillationConfig.of(section, seed=params.seed), run.checkpoint_directory
        )
        teacher, history = distilled.teacher, distilled.history
        statistics = (distilled.target_mean, distilled.target_std)
        card = {
            "backbone": section.backbone,
            "images_seen": distilled.images_seen,
            "steps": distilled.steps,
            "data": source,
        }
    torch.manual_seed(params.seed)
    random = PatchDescriptionNetwork(section.size).eval()

    def measured(network: PatchDescriptionNetwork) -> dict[str, float]:
        return evaluate(network, unseen, features, statistics, section.image_size)

    numbers = measured(teacher)
    if not numbers:
        print("these weights have seen every image here: no loss on unseen images")
    held_out = {"held_out_loss": numbers.pop("loss")} if numbers else {}
    metrics: dict[str, Any] = {
        **held_out,
        **numbers,
        "random_pdn": measured(random),
        "source": section.source,
        "backbone": card["backbone"],
        "images_seen": card["images_seen"],
        "held_out": source,
        "held_out_images": {"natural": len(unseen.natural), "metal": len(unseen.metal)},
    }
    with atomic_directory(OUTPUT) as folder:
        save_teacher(folder / WEIGHTS, teacher, card, torch.float32, statistics)
        # No rows when the weights are the shipped ones
        pd.DataFrame(history, columns=["step", "loss"]).to_csv(folder / "losses.csv", index=False)
    write_json(METRICS, metrics)
    run.log_metrics(metrics)
    run.log_history([{"step": row["step"], "distillation_loss": row["loss"]} for row in history])


def training_images(section: DistillTeacher) -> tuple[DistillationImages, dict[str, str]]:
    """Natural images and normal metal of the training split at the backbone's size, and their description."""
    side = 2 * section.image_size
    natural = natural_photographs(section.natural, side, section.natural_images)
    normals = RealDatasetProvider(INSPECTION).train()

    def read(index: int) -> U8:
        return resize(normals[index].image, side)

    metal = LazyImages([partial(read, index) for index in range(len(normals))], (side, side))
    source = {"natural": natural_source(section.natural), "metal": str(INSPECTION)}
    return distillation_images(natural, metal, side), source


def unseen_by_shipped(
    section: DistillTeacher, card: Mapping[str, Any]
) -> tuple[DistillationImages, dict[str, str]]:
    """Images that the shipped weights cannot have learnt from, and their description.

    The weights' card lists what they learnt from. Any folder of this project may hold the same photographs,
    so the metal is drawn here, with numbers that no sample set uses, and the natural images come from
    installed packages, unless the card names those.
    """
    side = 2 * section.image_size
    natural = natural_photographs(None, side, section.natural_images)
    source = {
        "natural": natural_source(None),
        "metal": f"{METAL_IMAGES} procedural normal images that no training saw",
    }
    if "scikit-image" in learnt_from(card):
        natural, source["natural"] = [], "none: all natural images here were seen in training"
    readers = [partial(draw_unseen, number, side) for number in range(METAL_IMAGES)]
    metal = LazyImages(readers, (side, side))
    return distillation_images(natural, metal, side), source


def learnt_from(card: Mapping[str, Any]) -> str:
    """The natural images that the weights saw, including those seen by the weights they started from."""
    earlier = f"; {learnt_from(card['base'])}" if "base" in card else ""
    return f"{card['data']['natural']}{earlier}"


def draw_unseen(number: int, side: int) -> U8:
    """A normal procedural image."""
    return generate_normal_image(np.random.default_rng((UNSEEN_SEED, number)), side)


if __name__ == "__main__":
    run_stage("distill_teacher", main)
