"""`metaldefect infer`: score images and draw heat maps with a trained or an exported detector."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.deploy.bundle import METADATA
from metaldefect.deploy.runtime import Detector, overlay
from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.efficientad.evaluation import infer
from metaldefect.efficientad.model_files import load_detector
from metaldefect.errors import UserError, printable
from metaldefect.image_files import IMAGE_SUFFIXES, REFUSED_SUFFIXES, Levels, is_hidden_name
from metaldefect.images import U8, UnreadableImageError, read_grey, resize, write_png
from metaldefect.inspection.layout import GOOD
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image, keyed_generator

SCORES = "scores.csv"
COLUMNS = ("image", "score", "threshold", "is_anomalous", "heat_map", "refused")


@dataclass(frozen=True)
class Model:
    """A detector ready to use.

    `detect` maps `uint8 [image_size, image_size]` to a score and a `float32` map of the same size.
    `levels` says how image files with more than 8 bits are read.
    """

    detect: Callable[[U8], tuple[float, NDArray[np.float32]]]
    image_size: int
    threshold: float
    levels: Levels | None = None


@dataclass(frozen=True)
class Frame:
    """An image to score, and its relative path, which heat map and `scores.csv` name it by."""

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
        return Model(detector.detect, detector.image_size, detector.threshold, detector.levels)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: train a detector with `metaldefect train`")
    model, config = load_detector(folder)
    return Model(partial(infer, model), config.image_size, config.threshold, config.levels)


def frames_of(path: Path, levels: Levels | None = None) -> list[Frame]:
    """List one image, or every image below a folder, sorted and named by relative path.

    Leaves out hidden entries. Files of formats that are refused are listed, so that `scores.csv` says why.

    Args:
        path: an image, or a folder of images.
        levels: the model's.

    Raises:
        UserError: `path` does not exist or holds no image.
    """
    if path.is_file():
        return [Frame(path.name, partial(read_grey, path, levels=levels))]
    if not path.is_dir():
        raise UserError(f"{path} does not exist: name an image or a folder of images")
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES | REFUSED_SUFFIXES
        and not file.is_dir()
        and not any(is_hidden_name(part) for part in file.relative_to(path).parts)
    )
    if not found:
        raise UserError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [
        Frame(file.relative_to(path).as_posix(), partial(read_grey, file, levels=levels)) for file in found
    ]


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
    """Write `scores.csv` (UTF-8) row by row, and one heat-map overlay per image.

    A frame that cannot be read gets a row with the reason, and costs the others nothing. Names that are not
    UTF-8 stay as they are on disk and have their bytes escaped in the table.

    Args:
        model: the detector.
        frames: the images.
        output: folder to write to; heat maps keep the images' relative paths, as PNG.

    Returns:
        (name, reason) of each unreadable image.
    """
    unreadable: list[tuple[str, str]] = []
    output.mkdir(parents=True, exist_ok=True)
    with (output / SCORES).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for frame in tqdm(frames, desc="infer", unit="image"):
            name = printable(frame.name)
            try:
                image = frame.load()
            except UnreadableImageError as error:
                unreadable.append((name, str(error)))
                writer.writerow((name, "", f"{model.threshold:.6g}", "", "", error))
            else:
                writer.writerow((name, *score_frame(model, frame.name, image, output), ""))
            stream.flush()
    return unreadable


def score_frame(model: Model, name: str, image: U8, output: Path) -> tuple[str, str, bool, str]:
    """Score an image and write its heat map; return score, threshold, verdict and the heat map's name."""
    score, anomaly_map = model.detect(resize(image, model.image_size))
    full_map = map_to_size(anomaly_map, (image.shape[0], image.shape[1]))
    heat_map = f"{name}.heat.png"
    write_png(output / heat_map, overlay(image, full_map, max(model.threshold, 1e-6)))
    return f"{score:.6g}", f"{model.threshold:.6g}", score > model.threshold, printable(heat_map)
