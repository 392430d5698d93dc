"""Draw images per class and insert defects with masks into normal images; measure how good they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.artifacts import atomic_directory, sha256_file, write_json
from metaldefect.backbones import pooled_features
from metaldefect.errors import UserError
from metaldefect.hardware import keep_freed_memory
from metaldefect.images import U8, read_grey, write_png
from metaldefect.ingest.expectations import validate_synthetic
from metaldefect.ingest.expectations import write as write_validation
from metaldefect.inspection.provider import RealDatasetProvider
from metaldefect.maskgit.sampler import SamplingConfig
from metaldefect.metrics.bootstrap import ratio_of_means
from metaldefect.metrics.generation import Features
from metaldefect.metrics.generation_suite import (
    Labelled,
    evaluate,
    nearest_neighbours,
    ratio_interval,
)
from metaldefect.metrics.seams import border_gradient
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.insertion import Canvas, draw_insertions, plan_insertions, write_insertions
from metaldefect.synthesis.painter import Painter, load_painter
from metaldefect.synthesis.selection import choose, fit_selector
from pipeline.figures import image_grid, mask_overlay, save_figure
from pipeline.images import load_images
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

STAGE = "synthesize"
MERGED = Path("data/merged")
EXTRACTOR = "efficientnet_lite0 pooled features (ImageNet)"
SELECTOR_IMAGES = 100  # training images of a class from which the selector of candidates learns
Mask = NDArray[np.bool_]


def main(params: Params, run: StageRun) -> None:
    keep_freed_memory()
    section = params.synthesize
    painter = load_painter(Path("models/vq"), Path("models/maskgit"))
    if not section.grain:
        painter = replace(painter, grain=None)
    config = SamplingConfig(**section.sampling.model_dump(exclude={"batch_size"}))
    table = pd.read_parquet(MERGED / "samples.parquet")
    images, fake, candidates = draw_classes(painter, config, params, table)
    labels = fake.labels

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

    real = real_sides(painter, table)
    nearest = nearest_neighbours(real.train.features, fake.features)
    metrics: dict[str, Any] = {
        "images": len(images),
        "insertions": seams.pop("insertions"),
        "extractor": EXTRACTOR,
        "expectations_passed": report.passed,
        "expectations_failed": report.failed,
        **evaluate(*real, fake, params.seed, candidates),
        "seams": seams,
    }
    write_json(f"metrics/{STAGE}.json", metrics)
    run.log_metrics(metrics)
    figures = {
        "real_and_drawn_per_class": real_and_drawn(painter, table, images, labels),
        "nearest_training_images": neighbours(painter, table, images, labels, nearest),
        "unmasking": unmasking(painter, config, params.seed),
        "inserted_defects": image_grid(
            [[canvas, mask_overlay(image, mask), image] for canvas, mask, image, _ in examples],
            [label for *_, label in examples],
            ["normal", "mask", "inserted"],
            cell=1.8,
        ),
    }
    with atomic_directory(f"plots/{STAGE}") as directory:
        for name, figure in figures.items():
            save_figure(figure, directory / f"{name}.png")
            run.log_figure(figure, f"{name}.png")


class DrawnImages(NamedTuple):
    """Whole images, their features, and those of all candidates, where there were more to choose from."""

    images: U8
    kept: Labelled
    candidates: Labelled | None


def draw_classes(
    painter: Painter, config: SamplingConfig, params: Params, table: pd.DataFrame
) -> DrawnImages:
    """`images_per_class` whole images of each class, class by class, chosen among several candidates each."""
    section = params.synthesize
    several = section.candidates.per_image > 1
    if several:
        config = replace(config, **section.candidates.model_dump(exclude={"per_image"}))
    count = section.images_per_class * section.candidates.per_image
    wanted = np.repeat(np.arange(len(painter.classes)), count)
    batches = []
    size = section.sampling.batch_size
    for start in tqdm(range(0, len(wanted), size), desc="drawing", unit="batch"):
        labels = torch.from_numpy(wanted[start : start + size])
        numbers = [number % count for number in range(start, start + len(labels))]
        batches.append(painter.sample(labels, numbers, config, params.seed))
    images, names = np.concatenate(batches), np.array(painter.classes)[wanted]
    candidates = Labelled.ungrouped(pooled_features(images), names)
    if not several:
        return DrawnImages(images, candidates, None)
    selector = fit_selector(*training_features(painter, table, params.seed), params.seed)
    kept = choose(selector, candidates.features, names, section.images_per_class, params.seed)
    return DrawnImages(images[kept], Labelled.ungrouped(candidates.features[kept], names[kept]), candidates)


def training_features(painter: Painter, table: pd.DataFrame, seed: int) -> tuple[Features, NDArray[np.str_]]:
    """Features of training images through the tokenizer, `SELECTOR_IMAGES` a class at most, and classes."""
    train = table[table["split"] == "train"].sample(frac=1.0, random_state=seed)
    rows = train.groupby("label").head(SELECTOR_IMAGES).sort_index()
    images = load_images(MERGED, rows, painter.image_size, "training images")
    return pooled_features(through_tokenizer(painter, images)), rows["label"].to_numpy(str)


def insert_defects(
    painter: Painter, config: SamplingConfig, params: Params, table: pd.DataFrame, root: Path
) -> tuple[dict[str, Any], list[tuple[U8, Mask, U8, str]]]:
    """Write defects inserted in the canvases of the inspection set; the seams; an example per class.

    Canvases are held out of the detector's training, calibration and test alike.
    """
    section = params.synthesize
    canvases = [
        Canvas(item.name, item.scene, item.image)
        for item in RealDatasetProvider(MERGED / "inspection").canvases()
    ]
    jobs = plan_insertions(
        painter.classes, section.insertions_per_class, params.seed, canvases, real_masks(table)
    )
    batch = section.sampling.batch_size
    drawn = draw_insertions(
        painter, jobs, config, params.seed, section.feather, batch, section.insertion_attempts
    )
    root.mkdir(parents=True)
    counts = write_insertions(root, jobs, drawn)
    gradients: dict[str, list[float]] = {"inserted": [], "pasted": [], "canvas": []}
    examples: dict[str, tuple[U8, Mask, U8, str]] = {}
    for job, found in zip(jobs, drawn, strict=True):
        if not found.visible:
            continue
        canvas = job.canvas.image
        for name, version in (("inserted", found.image), ("pasted", found.pasted), ("canvas", canvas)):
            gradients[name].append(border_gradient(version, job.mask))
        examples.setdefault(job.label, (canvas, found.mask, found.image, job.label))
    if not examples:
        raise UserError(
            f"none of {len(jobs)} insertions can be seen: train MaskGIT for longer, or guide it more strongly"
            " (train_maskgit.training.steps, synthesize.sampling.guidance)"
        )
    return {"insertions": counts, **seam_metrics(gradients, table)}, list(examples.values())


def seam_metrics(gradients: dict[str, list[float]], table: pd.DataFrame) -> dict[str, Any]:
    """Gradients along the borders of insertion masks, with (`inserted`) and without compositing (`pasted`).

    Against the borders of real defects, in the merged set (`..._to_real`) and, where it has masks, in the
    inspection set that the canvases come from (`..._to_real_inspection`): a defect's border may be as sharp
    as that of a real one. And against the same borders in the untouched canvases (`..._to_canvas`).
    """
    seams: dict[str, Any] = {name: float(np.mean(values)) for name, values in gradients.items()}
    canvas = np.array(gradients["canvas"])
    intervals = {}
    for name in ("inserted", "pasted"):
        seams[f"{name}_to_canvas"] = seams[name] / seams["canvas"]
        intervals[f"{name}_to_canvas"] = ratio_interval(
            np.array(gradients[name]), canvas, np.arange(len(canvas))
        )
    seams["real"] = real_border_gradient(table)
    seams["inserted_to_real"] = seams["inserted"] / seams["real"]
    of_defects = inspection_border_gradients()
    if of_defects:
        seams["real_inspection"] = float(np.mean(of_defects))
        for name in ("inserted", "pasted"):
            ratio = ratio_of_means(gradients[name], of_defects)
            seams[f"{name}_to_real_inspection"] = ratio["mean"]
            intervals[f"{name}_to_real_inspection"] = [ratio["low"], ratio["high"]]
    return {**seams, "interval_95": intervals}


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
        raise UserError("no image of the merged set has a mask: seams have nothing to compare with")
    values = []
    for path, mask_path in zip(known["path"], known["mask_path"], strict=True):
        mask = read_grey(MERGED / mask_path) > 127
        if mask.any() and not mask.all():
            values.append(border_gradient(read_grey(MERGED / path), mask))
    return float(np.mean(values))


def inspection_border_gradients(limit: int = 200) -> list[float]:
    """Mean gradients along the borders of the inspection set's real defects; empty where it has no masks."""
    values = []
    masks = sorted((MERGED / "inspection/ground_truth").rglob("*.png"))
    for path in masks[:: max(1, len(masks) // limit)]:
        image = MERGED / "inspection/test" / path.parent.name / f"{path.stem.removesuffix('_mask')}.png"
        mask = read_grey(path) > 127
        if image.is_file() and mask.any() and not mask.all():
            values.append(border_gradient(read_grey(image), mask))
    return values


def real_split(table: pd.DataFrame, split: str, size: int) -> tuple[U8, pd.DataFrame]:
    """Images of a split of the merged set, and their rows."""
    rows = table[table["split"] == split].reset_index(drop=True)
    return load_images(MERGED, rows, size, f"real {split}"), rows


def through_tokenizer(painter: Painter, images: U8, batch_size: int = 16) -> U8:
    """Images as the tokenizer gives them back, with the grain that drawn ones get."""
    generators = [image_generator(0, "grain", number) for number in range(len(images))]
    parts = []
    for start in tqdm(range(0, len(images), batch_size), desc="through the tokenizer", unit="batch"):
        chosen = slice(start, start + batch_size)
        parts.append(painter.render(painter.encode(images[chosen]), generators[chosen]))
    return np.concatenate(parts)


class RealSides(NamedTuple):
    """Features of the real images that drawn ones are compared with."""

    train: Labelled
    test: Labelled
    through: Features  # the held-out ones through the tokenizer


def real_sides(painter: Painter, table: pd.DataFrame) -> RealSides:
    """Those of the merged set."""

    def labelled(pixels: U8, rows: pd.DataFrame) -> Labelled:
        return Labelled(pooled_features(pixels), rows["label"].to_numpy(str), rows["group"].to_numpy())

    train = labelled(*real_split(table, "train", painter.image_size))
    images, rows = real_split(table, "test", painter.image_size)
    return RealSides(train, labelled(images, rows), pooled_features(through_tokenizer(painter, images)))


def real_and_drawn(
    painter: Painter, table: pd.DataFrame, images: U8, labels: NDArray[np.str_], count: int = 5
) -> Figure:
    """Real and drawn images per class, one row under the other."""
    rows, names = [], []
    for label in painter.classes:
        real = table[(table["label"] == label) & (table["split"] == "train")].head(count)
        rows.append([read_grey(MERGED / path, painter.image_size) for path in real["path"]])
        names.append(f"{label}\nreal")
        rows.append(list(images[labels == label][:count]))
        names.append(f"{label}\ndrawn")
    return image_grid(rows, names)


def neighbours(
    painter: Painter,
    table: pd.DataFrame,
    images: U8,
    labels: NDArray[np.str_],
    nearest: NDArray[np.int64],
) -> Figure:
    """A drawn image of each class and the training images nearest to it."""
    train = table[table["split"] == "train"].reset_index(drop=True)
    rows = []
    for label in painter.classes:
        first = int(np.flatnonzero(labels == label)[0])
        paths = [MERGED / train["path"].iloc[int(i)] for i in nearest[first]]
        rows.append([images[first], *(read_grey(path, painter.image_size) for path in paths)])
    columns = ["drawn", *(f"train, {i}." for i in range(1, nearest.shape[1] + 1))]
    return image_grid(rows, painter.classes, columns)


def unmasking(painter: Painter, config: SamplingConfig, seed: int, columns: int = 8) -> Figure:
    """How an image of each class comes about: tokens not yet written are grey."""
    labels = torch.arange(len(painter.classes))
    history: list[torch.Tensor] = []
    generators = painter.generators(labels, [0] * len(labels), seed)
    painter.draw_tokens(labels, config, generators, history=history)
    chosen = sorted({round(i) for i in np.linspace(0, len(history) - 1, columns)})
    rows: list[list[U8]] = [[] for _ in painter.classes]
    side = painter.image_size // painter.maskgit.config.grid
    for step in chosen:
        unknown = history[step] == painter.maskgit.config.mask_id
        decoded = painter.decode(history[step].masked_fill(unknown, 0))
        hidden = unknown.numpy().repeat(side, axis=1).repeat(side, axis=2)
        for row, image in zip(rows, np.where(hidden, np.uint8(128), decoded), strict=True):
            row.append(image)
    return image_grid(rows, painter.classes, [f"step {step + 1}" for step in chosen])


if __name__ == "__main__":
    run_stage(STAGE, main)
