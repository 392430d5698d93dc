"""Draw images per class and insert defects with masks into normal images; measure how good they are."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.artifacts import atomic_directory, sha256_file, write_json
from metaldefect.backbones import pooled_features
from metaldefect.data.expectations import validate_synthetic
from metaldefect.data.expectations import write as write_validation
from metaldefect.images import U8, read_grey, write_png
from metaldefect.maskgit.inpainting import inpaint
from metaldefect.maskgit.mask_makers import make_mask
from metaldefect.maskgit.painter import Painter, load_painter
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.metrics.generation import (
    class_agreement,
    classifier,
    kid,
    memorisation,
    precision_recall,
)
from metaldefect.metrics.seams import border_gradient
from stages.figures import image_grid, mask_overlay, save_figure
from stages.images import load_images
from stages.params import Params
from stages.run import StageRun, run_stage

STAGE = "synthesize"
MERGED = Path("data/merged")
EXTRACTOR = "efficientnet_lite0 pooled features (ImageNet)"
Mask = NDArray[np.bool_]


def main(params: Params, run: StageRun) -> None:
    section = params.synthesize
    painter = load_painter(Path("models/vq"), Path("models/maskgit"))
    config = SamplingConfig(**section.sampling.model_dump(exclude={"batch_size"}))
    images, labels = draw_classes(painter, config, params)
    table = pd.read_parquet(MERGED / "samples.parquet")

    with atomic_directory("data/synthetic") as directory:
        rows = []
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = f"images/{label}/{label}_{number % section.images_per_class:05d}.png"
            write_png(directory / path, image)
            rows.append({"path": path, "label": label, "sha256": sha256_file(directory / path)})
        drawn = pd.DataFrame(rows)
        drawn.to_parquet(directory / "samples.parquet", index=False)
        report = validate_synthetic(
            drawn, painter.classes, painter.image_size, section.images_per_class, folder=directory
        )
        write_validation(report, Path("reports/synthesize"))
        report.raise_if_failed()
        seams, examples = insert_defects(painter, config, params, table, directory / "inserted")

    metrics: dict[str, Any] = {
        "images": len(images),
        "insertions": len(painter.classes) * section.insertions_per_class,
        "extractor": EXTRACTOR,
        "expectations_passed": report.passed,
        "expectations_failed": report.failed,
        **generation_metrics(painter, params, table, images, labels),
        "seams": seams,
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    plot(run, painter, table, images, labels, examples)


def draw_classes(painter: Painter, config: SamplingConfig, params: Params) -> tuple[U8, NDArray[np.str_]]:
    """`images_per_class` whole images of each class, class by class."""
    section = params.synthesize
    wanted = np.repeat(np.arange(len(painter.classes)), section.images_per_class)
    generator = torch.Generator().manual_seed(params.seed)
    batches = []
    size = section.sampling.batch_size
    for start in tqdm(range(0, len(wanted), size), desc="drawing", unit="batch"):
        labels = torch.from_numpy(wanted[start : start + size])
        batches.append(painter.sample(labels, config, generator))
    return np.concatenate(batches), np.array(painter.classes)[wanted]


def insert_defects(
    painter: Painter, config: SamplingConfig, params: Params, table: pd.DataFrame, root: Path
) -> tuple[dict[str, float], list[tuple[U8, Mask, U8, str]]]:
    """Write normal images with inserted defects as an MVTec-like category; the seams; an example a class.

    The canvases are the inspection set's validation normals (they stay as `test/good`), so neither
    training normals nor test images are touched.
    """
    section = params.synthesize
    paths = sorted((MERGED / "inspection/validation/good").glob("*.png"))
    if not paths:
        raise FileNotFoundError(f"{MERGED}/inspection/validation/good holds no images to insert defects in")
    canvases = [read_grey(path) for path in paths]
    for path, canvas in zip(paths, canvases, strict=True):
        write_png(root / "test/good" / path.name, canvas)
    real = real_masks(table)
    generator = torch.Generator().manual_seed(params.seed + 1)
    gradients: dict[str, list[float]] = {"inserted": [], "canvas": []}
    examples = []
    jobs = [
        plan_insertion(label, k, params.seed, canvases, real.get(label, []))
        for label in painter.classes
        for k in range(section.insertions_per_class)
    ]
    batch = section.sampling.batch_size
    for start in tqdm(range(0, len(jobs), batch), desc="inserting", unit="batch"):
        part = jobs[start : start + batch]
        filled = inpaint(
            painter,
            [job.canvas[job.window] for job in part],
            [job.mask[job.window] for job in part],
            [job.label for job in part],
            config,
            generator,
            section.feather,
        )
        for job, crop in zip(part, filled, strict=True):
            image = job.canvas.copy()
            image[job.window] = crop
            mask = job.mask.astype(np.uint8) * 255
            write_png(root / "test" / job.label / f"{job.number:04d}.png", image)
            write_png(root / "ground_truth" / job.label / f"{job.number:04d}_mask.png", mask)
            gradients["inserted"].append(border_gradient(image, job.mask))
            gradients["canvas"].append(border_gradient(job.canvas, job.mask))
            if job.number == 0:
                examples.append((job.canvas, job.mask, image, job.label))
    seams = {name: float(np.mean(values)) for name, values in gradients.items()}
    seams["real"] = real_border_gradient(table)
    seams["inserted_to_real"] = seams["inserted"] / seams["real"]
    return seams, examples


class Insertion(NamedTuple):
    """Where a defect goes: a normal image, the square of it that is worked on, and the mask."""

    label: str
    number: int  # within its class
    canvas: U8
    window: tuple[slice, slice]
    mask: Mask  # bool, the canvas's size


def plan_insertion(
    label: str, number: int, seed: int, canvases: Sequence[U8], real: Sequence[Mask]
) -> Insertion:
    """Choose a canvas, a square of it and a mask inside that square; a function of the first three alone."""
    rng = np.random.default_rng([seed, zlib.crc32(label.encode()), number])
    canvas = canvases[int(rng.integers(len(canvases)))]
    window = square_window(rng, canvas.shape)
    mask = np.zeros(canvas.shape, bool)
    mask[window] = make_mask(rng, min(canvas.shape), real)
    return Insertion(label, number, canvas, window, mask)


def square_window(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A random square of the image's shorter side: the tokenizer draws squares, and stretching shows."""
    side = min(shape)
    top, left = (int(rng.integers(0, length - side + 1)) for length in shape)
    return slice(top, top + side), slice(left, left + side)


def real_masks(table: pd.DataFrame) -> dict[str, list[Mask]]:
    """Known masks of training images, by class."""
    known = table[(table["split"] == "train") & table["mask_path"].notna()]
    masks: dict[str, list[Mask]] = {}
    for label, path in zip(known["label"], known["mask_path"], strict=True):
        mask = read_grey(MERGED / path) > 127
        if mask.any() and not mask.all():
            masks.setdefault(label, []).append(mask)
    return masks


def real_border_gradient(table: pd.DataFrame, limit: int = 200) -> float:
    """Mean gradient along the borders of real defects' masks."""
    known = table[table["mask_path"].notna()].head(limit)
    if known.empty:
        raise ValueError("no image of the merged set has a mask: seams have nothing to compare with")
    values = []
    for path, mask_path in zip(known["path"], known["mask_path"], strict=True):
        mask = read_grey(MERGED / mask_path) > 127
        if mask.any() and not mask.all():
            values.append(border_gradient(read_grey(MERGED / path), mask))
    return float(np.mean(values))


def generation_metrics(
    painter: Painter, params: Params, table: pd.DataFrame, images: U8, labels: NDArray[np.str_]
) -> dict[str, Any]:
    """KID with its floors, precision and recall, class agreement, CAS and memorisation."""
    size = painter.image_size
    real = {}
    for split in ("train", "test"):
        rows = table[table["split"] == split].reset_index(drop=True)
        real[split] = (load_images(MERGED, rows, size, f"real {split}"), rows["label"].to_numpy())
    train, test = pooled_features(real["train"][0]), pooled_features(real["test"][0])
    fake = pooled_features(images)
    test_images = real["test"][0]
    through = np.concatenate(
        [painter.decode(painter.encode(test_images[i : i + 16])) for i in range(0, len(test_images), 16)]
    )
    precision, recall = precision_recall(test, fake)
    judge = classifier(train, real["train"][1], params.seed)
    student = classifier(fake, labels, params.seed)
    accuracy = float((judge.predict(test) == real["test"][1]).mean())
    score = float((student.predict(test) == real["test"][1]).mean())
    return {
        "kid": {
            "synthetic": kid(test, fake),
            "real_floor": kid(test, train),
            "reconstruction": kid(test, pooled_features(through)),
        },
        "precision": precision,
        "recall": recall,
        "class_agreement": class_agreement(judge, fake, labels),
        "classifier_accuracy_on_real": accuracy,
        "cas": {"accuracy": score, "ratio": score / accuracy},
        "memorisation": memorisation(train, test, fake),
    }


def plot(
    run: StageRun,
    painter: Painter,
    table: pd.DataFrame,
    images: U8,
    labels: NDArray[np.str_],
    examples: list[tuple[U8, Mask, U8, str]],
) -> None:
    """Real and drawn images per class; insertions before and after."""
    count = 5
    rows, names = [], []
    for label in painter.classes:
        real = table[(table["label"] == label) & (table["split"] == "train")].head(count)
        rows.append([read_grey(MERGED / path, painter.image_size) for path in real["path"]])
        names.append(f"{label}\nreal")
        rows.append(list(images[labels == label][:count]))
        names.append(f"{label}\ndrawn")
    triples = [[canvas, mask_overlay(image, mask), image] for canvas, mask, image, _ in examples]
    figures = {
        "real_and_drawn_per_class": image_grid(rows, names),
        "inserted_defects": image_grid(
            triples, [label for *_, label in examples], ["normal", "mask", "inserted"], cell=1.8
        ),
    }
    with atomic_directory(f"plots/{STAGE}") as directory:
        for name, figure in figures.items():
            save_figure(figure, directory / f"{name}.png")
            run.log_figure(figure, f"{name}.png")


if __name__ == "__main__":
    run_stage(STAGE, main)
