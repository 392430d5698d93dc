"""`metaldefect infer`: score images and draw heat maps with a trained or an exported detector."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.artifacts import atomic_file
from metaldefect.deploy.export import METADATA
from metaldefect.deploy.runtime import Detector, overlay
from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.efficientad.evaluation import infer
from metaldefect.efficientad.model_files import load_detector
from metaldefect.errors import UserError
from metaldefect.images import IMAGE_SUFFIXES, U8, UnreadableImageError, read_grey, resize, write_png
from metaldefect.inspection.layout import GOOD
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image, keyed_generator

SCORES = "scores.csv"
COLUMNS = ("image", "score", "threshold", "is_anomalous", "heat_map")


@dataclass(frozen=True)
class Model:
    """A detector ready to use.

    `detect` maps `uint8 [image_size, image_size]` to a score and a `float32` map of the same size.
    """

    detect: Callable[[U8], tuple[float, NDArray[np.float32]]]
    image_size: int
    threshold: float


@dataclass(frozen=True)
class Frame:
    """An image to score, and its name in `scores.csv`: a relative path."""

    name: str
    load: Callable[[], U8]


def load_model(folder: Path, precision: str) -> Model:
    """Load a trained detector or an OpenVINO export.

    Args:
        folder: written by `metaldefect train` or the stage `train_efficientad` (holds `config.json`), or
            an export (holds `metadata.json`).
        precision: which graph of an export: fp32, fp16 or int8; ignored for a trained detector.

    Raises:
        UserError: the folder is neither, or its files do not match each other.
    """
    if (folder / METADATA).is_file():
        detector = Detector.load(folder, precision)
        return Model(detector.detect, detector.image_size, detector.threshold)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: train a detector with `metaldefect train`")
    model, config = load_detector(folder)
    return Model(partial(infer, model), config.image_size, config.threshold)


def frames_of(path: Path) -> list[Frame]:
    """List one image, or every image below a folder, sorted and named by relative path.

    Raises:
        UserError: `path` does not exist or holds no image.
    """
    if path.is_file():
        return [Frame(path.name, partial(read_grey, path))]
    if not path.is_dir():
        raise UserError(f"{path} does not exist: name an image or a folder of images")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise UserError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [Frame(p.relative_to(path).as_posix(), partial(read_grey, p)) for p in found]


def synthetic_frames(count: int, size: int, seed: int) -> list[Frame]:
    """List procedural images, cycling through normal and each anomaly; names contain the kind."""
    kinds = (GOOD, *ANOMALIES)

    def draw(kind: str, index: int) -> U8:
        rng = keyed_generator(seed, "infer", kind, index)
        if kind == GOOD:
            return generate_normal_image(rng, size)
        return generate_anomalous_image(kind, rng, size)[0]

    chosen = [(kinds[index % len(kinds)], index) for index in range(count)]
    return [Frame(f"{index:04d}_{kind}.png", partial(draw, kind, index)) for kind, index in chosen]


def run_inference(model: Model, frames: Sequence[Frame], output: Path) -> list[tuple[str, str]]:
    """Write `scores.csv` and one heat-map overlay per image.

    Args:
        model: the detector.
        frames: the images.
        output: folder to write to; heat maps keep the images' relative paths, as PNG.

    Returns:
        (name, reason) of each unreadable image.
    """
    unreadable: list[tuple[str, str]] = []
    rows = list(judged(model, frames, output, unreadable))
    with atomic_file(output / SCORES) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return unreadable


def judged(
    model: Model, frames: Sequence[Frame], output: Path, unreadable: list[tuple[str, str]]
) -> Iterator[tuple[str, str, str, bool, str]]:
    """Score each image, write its heat map and yield its row; append unreadable ones to `unreadable`."""
    for frame in tqdm(frames, desc="infer", unit="image"):
        try:
            image = frame.load()
        except UnreadableImageError as error:
            unreadable.append((frame.name, str(error)))
            continue
        score, anomaly_map = model.detect(resize(image, model.image_size))
        heat = overlay(
            image, map_to_size(anomaly_map, (image.shape[0], image.shape[1])), max(model.threshold, 1e-6)
        )
        heat_map = f"{frame.name}.heat.png"
        write_png(output / heat_map, heat)
        yield frame.name, f"{score:.6g}", f"{model.threshold:.6g}", score > model.threshold, heat_map
