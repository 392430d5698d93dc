"""Stage `distill_teacher`: the detector's teacher, distilled here or shipped, and how well it imitates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from metaldefect.artifacts import atomic_directory, write_json
from metaldefect.backbones import load_backbone
from metaldefect.efficientad.distillation import (
    DistillationConfig,
    DistillationImages,
    Distiller,
    PdnPredictor,
    evaluate,
)
from metaldefect.efficientad.teacher_targets import PatchFeatures
from metaldefect.efficientad.teacher_weights import (
    load_target_statistics,
    load_teacher,
    read_card,
    save_teacher,
    shipped_teacher,
)
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.hardware import device
from metaldefect.images import stack_resized
from metaldefect.ingest.natural import load_natural_images, natural_source
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import RealDatasetProvider
from pipeline.params import DistillTeacher, Params
from pipeline.run import StageRun, run_stage

INSPECTION = Path("data/merged/inspection")
OUTPUT = Path("models/teacher")
WEIGHTS = "teacher.safetensors"
METRICS = Path("metrics/distill_teacher.json")
METAL_IMAGES = 64


def main(params: Params, run: StageRun) -> None:
    """Write `models/teacher` and what it explains of the backbone's features on images it has not seen."""
    section = params.distill_teacher
    images = read_images(section)
    features = PatchFeatures(load_backbone(section.backbone)).to(device())
    torch.manual_seed(params.seed)
    random = PatchDescriptionNetwork(section.size).eval()
    history: list[dict[str, float]] = []
    if section.source == "shipped":
        path = shipped_teacher(section.size)
        card, held_out = read_card(path), images
        teacher, statistics = load_teacher(path), load_target_statistics(path)
    else:
        training, held_out = images.split()
        distilled = Distiller(training, features, configuration(section, params.seed)).fit(
            run.checkpoint_directory / "state.ckpt"
        )
        teacher, history = distilled.teacher, distilled.history
        statistics = (distilled.target_mean, distilled.target_std)
        card = {
            "backbone": section.backbone,
            "images_seen": distilled.images_seen,
            "steps": distilled.steps,
            "data": {"natural": source_of(section), "metal": str(INSPECTION)},
        }

    def measured(network: PatchDescriptionNetwork) -> dict[str, float]:
        return evaluate(
            PdnPredictor(network.to(device())), held_out, features, *statistics, section.image_size
        )

    numbers = measured(teacher)
    metrics: dict[str, Any] = {
        "held_out_loss": numbers.pop("loss"),
        **numbers,
        "random_pdn": measured(random),
        "source": section.source,
        "backbone": card["backbone"],
        "images_seen": card["images_seen"],
        "natural_source": source_of(section),
        "held_out_images": {"natural": len(held_out.natural), "metal": len(held_out.metal)},
    }
    with atomic_directory(OUTPUT) as folder:
        save_teacher(folder / WEIGHTS, teacher, card, torch.float32, statistics)
        # Without rows where the weights are the shipped ones
        pd.DataFrame(history, columns=["step", "loss"]).to_csv(folder / "losses.csv", index=False)
    write_json(METRICS, metrics)
    run.log_metrics(metrics)
    run.log_history([{"step": row["step"], "distillation_loss": row["loss"]} for row in history])


def read_images(section: DistillTeacher) -> DistillationImages:
    """Natural images and normal metal, at the backbone's size.

    A distillation learns from training normals. Shipped weights are measured on test normals: what they
    learnt from may include images like the training ones.
    """
    side = 2 * section.image_size
    folder = Path(section.natural) if section.natural else None
    provider = RealDatasetProvider(INSPECTION)
    if section.source == "distill":
        normal = provider.train()
    else:
        test = provider.test()
        normal = test[: min(test.labels.count(GOOD), METAL_IMAGES)]
    return DistillationImages(
        load_natural_images(folder, side, section.natural_images),
        stack_resized((item.image for item in normal), side),
    )


def source_of(section: DistillTeacher) -> str:
    """What the natural images are."""
    return natural_source(Path(section.natural) if section.natural else None)


def configuration(section: DistillTeacher, seed: int) -> DistillationConfig:
    """The parameters in the library's words."""
    return DistillationConfig(
        size=section.size,
        image_size=section.image_size,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        steps=section.steps,
        checkpoint_steps=section.checkpoint_steps,
        seed=seed,
    )


if __name__ == "__main__":
    run_stage("distill_teacher", main)
