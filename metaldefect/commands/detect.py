"""`metaldefect detect`: score images and draw heat maps with a trained or an exported detector."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.deploy.bundle import METADATA
from metaldefect.deploy.compiled import NoScoreError
from metaldefect.deploy.runtime import Detector, overlay
from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.efficientad.model_files import load_detector
from metaldefect.efficientad.torch_model import infer
from metaldefect.errors import UserError, printable
from metaldefect.image_files import IMAGE_SUFFIXES, REFUSED_SUFFIXES, Levels, is_hidden_name
from metaldefect.images import (
    U8,
    Channels,
    ImageSize,
    UnreadableImageError,
    as_channels,
    height_and_width,
    middle,
    read_grey,
    read_image,
    resize,
    write_png,
)
from metaldefect.inspection.layout import GOOD
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image, keyed_generator
from metaldefect.tiling import ScoreAndMap, score_tiles

SCORES = "scores.csv"
JSON_LINES = "scores.jsonl"
POLL_SECONDS = 0.5
LONGEST_NAME = 240  # bytes, without the suffix
LONGEST_ROW = 1 << 16  # bytes
IMAGES = IMAGE_SUFFIXES | REFUSED_SUFFIXES
COLUMNS = ("image", "score", "threshold", "is_anomalous", "heat_map", "refused")


@dataclass(frozen=True)
class Model:
    """A detector ready to use.

    `detect` maps an image of `image_size` to a score and a `float32` map of the same size; with three
    `channels` the image is `uint8 [H, W, 3]`, with one `[H, W]`.
    `levels` says how image files with more than 8 bits are read. With `overlap`, images are scored in tiles
    of `image_size` that share so many pixels, instead of being resized. With `resizes`, `detect` takes images
    of any size. `detect_each` is `detect` of many images in order, several at once; None: one by one.
    """

    detect: Callable[[U8], tuple[float, NDArray[np.float32]]]
    image_size: ImageSize
    threshold: float
    levels: Levels | None = None
    overlap: int | None = None
    resizes: bool = False
    channels: Channels = 1
    detect_each: Callable[[Iterable[U8]], Iterable[ScoreAndMap]] | None = None

    def read(self, path: Path) -> U8:
        """Read an image file as the detector's training images were read."""
        return read_image(path, self.channels, self.levels)

    def score(self, image: U8) -> tuple[float, NDArray[np.float32]]:
        """Score and map, at the image's size, of an image `uint8 [H, W]` or `[H, W, 3]`."""
        image = as_channels(image, self.channels)
        if self.overlap is not None:
            each = self.detect_each or partial(map, self.detect)
            return score_tiles(each, image, self.image_size, self.overlap)
        score, anomaly_map = self.detect(image if self.resizes else resize(image, self.image_size))
        return score, map_to_size(anomaly_map, (image.shape[0], image.shape[1]))


@dataclass(frozen=True)
class Frame:
    """An image to score.

    Attributes:
        name: its relative path, which heat map and `scores.csv` name it by.
        load: reads it.
        state: of its file when it was found; None: it comes from no file.
    """

    name: str
    load: Callable[[], U8]
    state: FileState | None = None


def load_model(
    folder: Path, precision: str, overlap: int | None = None, public_key: Path | None = None
) -> Model:
    """Load a trained detector or an OpenVINO export.

    Args:
        folder: written by `metaldefect train` or the stage `train_efficientad` (holds `config.json`), or
            an export (holds `metadata.json`).
        precision: which graph of an export: fp32, fp16 or int8; ignored for a trained detector.
        overlap: see `Model`; None: as the detector was trained.
        public_key: PEM file; an export must be signed by its owner, and a trained detector is refused.

    Raises:
        UserError: the folder is neither, or its files do not match each other.
    """
    if (folder / METADATA).is_file():
        detector = Detector.load(folder, precision, public_key=public_key)
        return Model(
            detector.detect,
            detector.image_size,
            detector.threshold,
            detector.levels,
            detector.tiles if overlap is None else overlap,
            resizes=True,
            channels=detector.channels,
            detect_each=detector.detect_each,
        )
    if public_key is not None:
        raise UserError(f"{folder} is no export: only exports are signed")
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: train a detector with `metaldefect train`")
    model, config = load_detector(folder)
    return Model(
        partial(infer, model),
        config.image_size,
        config.threshold,
        config.levels,
        config.tiles if overlap is None else overlap,
        channels=config.channels,
    )


def frames_of(path: Path, read: Callable[[Path], U8] = read_grey, output: Path | None = None) -> list[Frame]:
    """List one image, every image below a folder, or those that a pattern matches, sorted.

    Images of a folder are named by their relative path, those of a pattern by their path. Leaves out hidden
    entries. Files of formats that are refused are listed, so that `scores.csv` says why.

    Args:
        path: an image, a folder of images, or a pattern such as `shift-*/*.png`.
        read: the model's.
        output: a folder of results: what a pattern matches in there is left out.

    Raises:
        UserError: `path` does not exist, or holds or matches no image, or none outside `output`.
    """
    if path.is_file():
        return [Frame(path.name, partial(read, path), state_of(path))]
    if not path.is_dir():
        matched = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        if not matched:
            raise UserError(f"{path} does not exist: name an image, a folder of images or a pattern")
        images = [file for file in matched if file.is_file() and file.suffix.lower() in IMAGES]
        if not images:
            raise UserError(f"{path} matches no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        results = output and output.resolve()
        files = [file for file in images if not (results and file.resolve().is_relative_to(results))]
        if not files:
            raise UserError(
                f"all images that {path} matches lie inside --output {output}, where results are not scored:"
                " choose another folder for --output"
            )
        return [Frame(inside(file), partial(read, file), state_of(file)) for file in files]
    found = images_below(path)
    if not found:
        raise UserError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [Frame(file.relative_to(path).as_posix(), partial(read, file), state_of(file)) for file in found]


def inside(file: Path) -> str:
    """A path as a relative one that does not lead up, so that results stay inside their folder."""
    return "/".join(part for part in file.parts if part not in ("..", file.anchor))


def images_below(folder: Path) -> list[Path]:
    """Image files below a folder, sorted, without hidden ones."""
    found: list[Path] = []
    # Not `rglob`: in Python 3.11 it raises an error if a subfolder vanishes before its turn
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden_name(name)]
        files = [Path(parent, name) for name in names if not is_hidden_name(name)]
        found += [file for file in files if file.suffix.lower() in IMAGES]
    return sorted(found)


def watch_frames(
    folder: Path, read: Callable[[Path], U8] = read_grey, wait: Callable[[float], None] = time.sleep
) -> Iterator[Frame]:
    """Yield the images in a folder, then each new or rewritten one once it stays as it is; never ends.

    Between the two looks at which a file has to be the same lies at least half a second. Files that vanish
    before they are read, dangling links and empty files are passed over.

    Args:
        folder: an existing folder.
        read: the model's.
        wait: sleeps between two looks.

    Raises:
        UserError: `folder` is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: --watch needs one")
    done: dict[Path, FileState] = {}
    before: dict[Path, FileState] = {}
    while True:
        now = {file: state for file in images_below(folder) if (state := state_of(file)) is not None}
        done = {file: state for file, state in done.items() if file in now}
        for file, state in now.items():
            # A camera's file that is still being written would be read half
            if state == before.get(file) and state != done.get(file):
                done[file] = state
                yield Frame(file.relative_to(folder).as_posix(), partial(read, file), state)
        before = now
        wait(POLL_SECONDS)


class FileState(NamedTuple):
    """What changes when a file is written: its time of change (ns) and its size in bytes."""

    modified: int
    size: int


def state_of(file: Path) -> FileState | None:
    """A file's state; None while it is empty or not there, as a dangling link is."""
    try:
        found = file.stat()
    except OSError:
        return None
    return FileState(found.st_mtime_ns, found.st_size) if found.st_size else None


def synthetic_frames(count: int, size: ImageSize, seed: int) -> list[Frame]:
    """List procedural images, cycling through normal and each anomaly; names contain the kind."""
    kinds, shape = (GOOD, *ANOMALIES), height_and_width(size)

    def draw(kind: str, index: int) -> U8:
        rng = keyed_generator(seed, "infer", kind, index)
        if kind == GOOD:
            return middle(generate_normal_image(rng, max(shape)), shape)
        return middle(generate_anomalous_image(kind, rng, max(shape))[0], shape)

    chosen = [(kinds[index % len(kinds)], index) for index in range(count)]
    return [Frame(f"{index:04d}_{kind}.png", partial(draw, kind, index)) for kind, index in chosen]


def run_detection(
    model: Model, frames: Iterable[Frame], output: Path, append: bool = False
) -> tuple[int, list[tuple[str, str]]]:
    """Write `scores.csv` and `scores.jsonl` (UTF-8) row by row, and one heat-map overlay per image.

    A frame that cannot be read gets a row with the reason, and costs the others nothing. Names that are not
    UTF-8 stay as they are on disk and have their bytes escaped in the table. `scores.jsonl` also holds the
    file's time of change (`modified`, ns) and its `size` in bytes.

    Args:
        model: the detector.
        frames: the images.
        output: folder to write to; heat maps keep the images' relative paths, as PNG.
        append: keep the rows that are there, and skip the images whose files have not changed since their
            last row, as a watch that starts again has to.

    Returns:
        The number of scored images, and (name, reason) of each unreadable one. Ctrl-C ends the run early.
    """
    scored, unreadable = 0, []
    mode = "a" if append else "w"
    output.mkdir(parents=True, exist_ok=True)
    known: dict[str, FileState] = {}
    if append:
        known = states_in(output / JSON_LINES)
        for path in (output / SCORES, output / JSON_LINES):
            end_last_row(path)
    with (
        (output / SCORES).open(mode, newline="", encoding="utf-8") as table,
        (output / JSON_LINES).open(mode, encoding="utf-8") as lines,
        suppress(KeyboardInterrupt),
    ):
        writer = csv.DictWriter(table, COLUMNS)
        if not table.tell():
            writer.writeheader()
        for frame in tqdm(frames, desc="detect", unit="image"):
            name = printable(frame.name)
            if frame.state is not None and known.pop(name, None) == frame.state:
                continue
            row: dict[str, Any] = {"image": name, "threshold": float(f"{model.threshold:.6g}")}
            try:
                image = frame.load()
                row |= score_frame(model, frame.name, image, output)
            except (UnreadableImageError, NoScoreError) as error:
                unreadable.append((row["image"], str(error)))
                row["refused"] = str(error)
            else:
                scored += 1
            writer.writerow(row)
            lines.write(json.dumps(row | (frame.state._asdict() if frame.state else {})) + "\n")
            table.flush()
            lines.flush()
    return scored, unreadable


def states_in(lines: Path) -> dict[str, FileState]:
    """The state of each image's file when its last row of `scores.jsonl` was made, by the image's name.

    Leaves out rows without a state, such as those of earlier versions, and rows that a power cut has torn.
    """
    found: dict[str, FileState] = {}
    if not lines.is_file():
        return found
    with lines.open(encoding="utf-8", errors="replace") as rows:
        for line in rows:
            with suppress(ValueError, TypeError, KeyError):
                row = json.loads(line)
                found[row["image"]] = FileState(row["modified"], row["size"])
    return found


def end_last_row(table: Path) -> None:
    """End the last row of a table that a power cut has torn, so that the next row is one of its own."""
    if not table.is_file():
        return
    with table.open("rb+") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_ROW))
        torn = file.read().rpartition(b"\n")[2]
        if torn:
            is_quoted = table.name == SCORES and torn.count(b'"') % 2  # CSV goes on behind a line break
            file.write(b'"\n' if is_quoted else b"\n")


def heat_map_name(name: str) -> str:
    """Name of an image's heat map; file systems take at most 255 bytes, so a hash replaces a longer one."""
    folder, slash, last = name.rpartition("/")
    if len(os.fsencode(last)) > LONGEST_NAME:
        last = hashlib.sha256(os.fsencode(last)).hexdigest()
    return f"{folder}{slash}{last}.heat.png"


def score_frame(model: Model, name: str, image: U8, output: Path) -> dict[str, Any]:
    """Score an image and write its heat map; return score, verdict and the heat map's name."""
    score, anomaly_map = model.score(image)
    heat_map = heat_map_name(name)
    write_png(output / heat_map, overlay(image, anomaly_map, max(model.threshold, 1e-6)))
    return {
        "score": float(f"{score:.6g}"),
        "is_anomalous": score > model.threshold,
        "heat_map": printable(heat_map),
    }
