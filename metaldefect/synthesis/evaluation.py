"""Evaluate generated images and insertions against real images of the merged dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaldefect.backbones import pooled_features
from metaldefect.feature_classifier import Features
from metaldefect.images import U8, Channels, read_grey, resize
from metaldefect.ingest.loading import load_images, rows_of, split_rows, spread_over_classes
from metaldefect.metrics.blocks import CellSteps, block_ratio, block_ratio_interval, cell_steps_inside
from metaldefect.metrics.bootstrap import ratio_interval, ratio_of_means
from metaldefect.metrics.features import CHUNK, features_of_files
from metaldefect.metrics.generation_suite import Labelled
from metaldefect.metrics.judge import LabelledImages, judge_metrics, train_judge
from metaldefect.metrics.judge_config import JudgeSettings
from metaldefect.metrics.seams import border_gradient
from metaldefect.metrics.usefulness import chosen_weight, gain
from metaldefect.on_disk import zeros_on_disk
from metaldefect.synthesis.drawing import through_tokenizer
from metaldefect.synthesis.inpainting import Mask, resize_mask
from metaldefect.synthesis.insertion_set import InsertedImage
from metaldefect.synthesis.painter import Painter
from metaldefect.synthesis.placement import bounding_box
from metaldefect.synthesis.slant import slant

GAIN_DRAWS = 5  # draws of the few real images
GAIN_WEIGHTS = (1.0, 0.3, 0.1, 0.03)  # of drawn images beside real ones
EXTRACTOR = "efficientnet_lite0 pooled features (ImageNet)"


class RealSides(NamedTuple):
    """Features of the real images that generated ones are compared with."""

    train: Labelled
    held_out: Labelled
    through: Features  # the held-out ones through the tokenizer


def images_on_disk(root: Path, table: pd.DataFrame, size: int, what: str, channels: Channels = 1) -> U8:
    """`load_images` into a temporary file, so that memory does not grow with the number of images."""
    images = zeros_on_disk((len(table), size, size, *([3] if channels == 3 else [])), np.uint8)
    for start in range(0, len(table), CHUNK):
        part = slice(start, start + CHUNK)
        images[part] = load_images(root, table.iloc[part], size, what, channels)
    return images


def real_images(merged: Path, split: str, size: int, channels: Channels = 1) -> Labelled:
    """Features of the real images of one split, read in grey or in colour."""
    rows = split_rows(merged, split)
    features = features_of_files([merged / path for path in rows["path"]], size, f"real {split}", channels)
    return Labelled(features, rows["label"].to_numpy(str), rows["scene"].to_numpy())


def real_sides(painter: Painter, merged: Path, split: str) -> RealSides:
    """Features of the merged dataset's training images and of one held-out split.

    Args:
        painter: its tokenizer reconstructs the held-out images.
        merged: folder of the merged dataset.
        split: `validation` to choose by the result, `test` to publish it.
    """
    rows = split_rows(merged, split)
    images = images_on_disk(merged, rows, painter.image_size, f"real {split}", painter.channels)
    return RealSides(
        real_images(merged, "train", painter.image_size, painter.channels),
        Labelled(pooled_features(images), rows["label"].to_numpy(str), rows["scene"].to_numpy()),
        pooled_features(through_tokenizer(painter, images)),
    )


def gain_at(
    real: RealSides, validation: Labelled, fake: Labelled, per_class: int, seed: int
) -> dict[str, Any]:
    """What drawn images add to a few real ones: accuracy on real held-out images, without and with them.

    Validation images choose the weight of the drawn images.

    Args:
        real: training images to take a few from, and held-out images to classify.
        validation: real validation images.
        fake: drawn images.
        per_class: real images per class.
        seed: of the first of the draws of real images.

    Returns:
        See `usefulness.gain`, and the chosen `synthetic_weight`.
    """
    train, added = (real.train.features, real.train.labels), (fake.features, fake.labels)
    draws = range(seed, seed + GAIN_DRAWS)
    weight = chosen_weight(
        train, added, (validation.features, validation.labels), per_class, draws, GAIN_WEIGHTS
    )
    held_out = (real.held_out.features, real.held_out.labels)
    groups = real.held_out.groups
    found = gain(train, added, held_out, groups, per_class, draws, weight)
    return found | {"synthetic_weight": weight, "draws": GAIN_DRAWS}


def drawn_images(folder: Path, size: int, channels: Channels = 1) -> Labelled:
    """Features of the whole generated images in a folder, read in grey or in colour."""
    table = pd.read_parquet(folder / "samples.parquet")
    features = features_of_files([folder / path for path in table["path"]], size, "drawn images", channels)
    return Labelled.ungrouped(features, table["label"].to_numpy(str))


def judge_drawn_images(
    merged: Path, folder: Path, settings: JudgeSettings, seed: int, channels: Channels = 1
) -> dict[str, Any]:
    """What a classifier that had no part in selecting them says about the drawn images in a folder.

    It learns from the merged dataset's training images; validation images end its training.

    Args:
        merged: folder of the merged dataset.
        folder: holds `samples.parquet` and the drawn images.
        settings: how to train the judge.
        seed: of its training.
        channels: whether it sees grey images or colours.

    Returns:
        See `judge_metrics`; with a single class only `judge`, which says so.
    """

    def labelled(rows: pd.DataFrame, root: Path, what: str) -> LabelledImages:
        images = images_on_disk(root, rows, settings.image_size, what, channels)
        sources = rows["source"].to_numpy(str)
        return LabelledImages(images, rows["label"].to_numpy(str), sources, rows["scene"].to_numpy())

    train = spread_over_classes(split_rows(merged, "train"), settings.train_images)
    if train["label"].nunique() < 2:
        return {"judge": {"left_out": "there is only one class"}}
    validation = split_rows(merged, "validation")
    validation = validation[validation["label"].isin(train["label"])]
    judge = train_judge(
        labelled(train, merged, "judge's training images"),
        labelled(validation, merged, "judge's validation images"),
        settings,
        seed,
    )
    drawn = pd.read_parquet(folder / "samples.parquet")
    drawn = drawn.assign(source="drawn", scene=np.arange(len(drawn)))  # drawn images are independent
    test = labelled(split_rows(merged, "test"), merged, "test images")
    return judge_metrics(judge, test, labelled(drawn, folder, "drawn images"))


def block_ratios(folder: Path, size: int, cell: int) -> dict[str, Any]:
    """Block ratio of the whole generated images in a folder, with its interval, and by class.

    Args:
        folder: holds `samples.parquet` and the images.
        size: side of the images in pixels.
        cell: side of a token's cell in pixels.

    Returns:
        `mean`, `low`, `high`, `per_class`, and the `highest` of the classes.
    """
    table = pd.read_parquet(folder / "samples.parquet")
    images = images_on_disk(folder, table, size, "drawn images")
    labels = table["label"].to_numpy(str)
    per_class = {str(label): block_ratio(images[labels == label], cell) for label in np.unique(labels)}
    whole = block_ratio_interval(images, cell)
    return {**whole, "per_class": per_class, "highest": max(per_class.values())}


def insertion_block_ratio(insertions: Iterable[InsertedImage], size: int, cell: int) -> dict[str, Any]:
    """Block ratio of inserted defects, each on the grid of the window in which it was drawn.

    Only steps inside the bounding box of a defect's mask count. The defect has steps of its own, so compare
    with `canvas`, the same boxes before the insertion. Defects in whose box no two cells meet are left out,
    and those along a slanted brush, whose grid was turned.

    Args:
        insertions: visible insertions.
        size: side of the painter's images in pixels, to which windows are resized.
        cell: side of a token's cell in these.

    Returns:
        `mean`, `low`, `high`, `canvas`, and `insertions`: how many count; or `left_out`: the reason.
    """
    found: dict[str, list[CellSteps]] = {"inserted": [], "canvas": []}
    numbers: dict[bytes, int] = {}  # of the canvases: several insertions may share one
    canvases = []
    for item in insertions:
        if slant(item.brush[item.window]):
            continue
        box = bounding_box(resize_mask(item.mask[item.window], size))
        steps = cell_steps_inside(resize(item.image[item.window], size), cell, box)
        if np.isnan([steps.across, steps.inside]).any():
            continue
        found["inserted"].append(steps)
        found["canvas"].append(cell_steps_inside(resize(item.canvas[item.window], size), cell, box))
        canvases.append(numbers.setdefault(item.canvas.tobytes(), len(numbers)))
    if len(numbers) < 2:
        return {"left_out": f"visible insertions across token cells in {len(numbers)} images, 2 are needed"}
    across, inside = (np.concatenate(values) for values in zip(*found["inserted"], strict=True))
    before = [float(np.concatenate(values).mean()) for values in zip(*found["canvas"], strict=True)]
    if not inside.any() or not before[1]:
        return {"left_out": "every cell is flat"}
    low, high = ratio_interval(across, inside, canvases)
    mean = float(across.mean() / inside.mean())
    return {
        "mean": mean, "low": low, "high": high, "canvas": before[0] / before[1], "insertions": len(canvases),
    }  # fmt: skip


def seam_metrics(
    insertions: Iterable[InsertedImage], real: Sequence[float], inspection: Sequence[float]
) -> dict[str, Any]:
    """Gradients along the borders of insertion masks, with (`inserted`) and without compositing (`pasted`).

    Compared with the same borders in the untouched canvases (`..._to_canvas`) and with the borders of real
    defects in the merged set (`..._to_real`) and the inspection set (`..._to_real_inspection`). An inserted
    defect's border may be as sharp as a real one's.

    Args:
        insertions: visible insertions.
        real: border gradients of the merged set's defects; empty if no image has a mask.
        inspection: border gradients of the inspection set's defects; empty if it has no masks.

    Returns:
        The metrics, their intervals as `interval_95`, and under `left_out` the reason for each metric that
        could not be measured.
    """
    gradients: dict[str, list[float]] = {"inserted": [], "pasted": [], "canvas": []}
    # Not hash(): it differs from process to process, and the resamples with it
    numbers: dict[bytes, int] = {}  # of the canvases: several insertions may share one
    canvases: list[int] = []
    for item in insertions:
        canvases.append(numbers.setdefault(item.canvas.tobytes(), len(numbers)))
        for name, version in (("inserted", item.image), ("pasted", item.pasted), ("canvas", item.canvas)):
            gradients[name].append(border_gradient(version, item.brush))
    if len(set(canvases)) < 2:
        return {"left_out": {"all of it": f"visible insertions in {len(set(canvases))} images, 2 are needed"}}
    seams: dict[str, Any] = {name: float(np.mean(values)) for name, values in gradients.items()}
    canvas = np.array(gradients["canvas"])
    intervals = {}
    for name in ("inserted", "pasted"):
        seams[f"{name}_to_canvas"] = seams[name] / seams["canvas"]
        intervals[f"{name}_to_canvas"] = ratio_interval(gradients[name], canvas, canvases)
    left_out: dict[str, str] = {}
    if real:
        seams["real"] = float(np.mean(real))
        seams["inserted_to_real"] = seams["inserted"] / seams["real"]
    else:
        left_out |= dict.fromkeys(("real", "inserted_to_real"), "no image of the merged set has a mask")
    if len(inspection) > 1:
        seams["real_inspection"] = float(np.mean(inspection))
    for name in ("inserted", "pasted"):
        key = f"{name}_to_real_inspection"
        if len(inspection) > 1:
            ratio = ratio_of_means(gradients[name], inspection, canvases)
            seams[key], intervals[key] = ratio["mean"], [ratio["low"], ratio["high"]]
        else:
            left_out[key] = f"{len(inspection)} masks in the inspection set, 2 are needed"
    return {**seams, "interval_95": intervals, "left_out": left_out}


def real_border_gradients(merged: Path, limit: int) -> list[float]:
    """Gradients along the borders of up to `limit` real defects, spread over classes and photographs.

    Empty if no image has a mask.
    """
    table = rows_of(merged)
    chosen = spread_over_classes(table[table["mask_path"].notna()], limit)
    files = zip(chosen["path"].astype(str), chosen["mask_path"].astype(str), strict=True)
    return [
        border_gradient(read_grey(merged / path), mask)
        for path, mask_path in files
        if has_border(mask := read_grey(merged / mask_path) > 127)
    ]


def inspection_border_gradients(inspection: Path, limit: int) -> list[float]:
    """Gradients along the borders of the inspection set's real defects; empty if it has no masks."""
    values = []
    masks = sorted((inspection / "ground_truth").rglob("*.png"))
    for path in masks[:: max(1, len(masks) // limit)]:
        image = inspection / "test" / path.parent.name / f"{path.stem.removesuffix('_mask')}.png"
        mask = read_grey(path) > 127
        if image.is_file() and has_border(mask):
            values.append(border_gradient(read_grey(image), mask))
    return values


def has_border(mask: Mask) -> bool:
    """Whether some but not all pixels are set."""
    return bool(mask.any() and not mask.all())
