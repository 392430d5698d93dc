"""What must not stop a line: images that are none, and bundles that are not what they seem."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from metaldefect.artifacts import read_json, sha256_file, write_json
from metaldefect.deploy.signature import sign
from tests.deploy.keys import key_files


class Line(NamedTuple):
    """A bundle that may be changed, another detector's, and a folder."""

    bundle: Path
    other: Path
    folder: Path


class Bad(NamedTuple):
    """A bad input: an image or a changed bundle, with the key that is demanded."""

    image: Path | None = None
    key: Path | None = None


def text(line: Line) -> Bad:
    path = line.folder / "bad.png"
    path.write_text("no image")
    return Bad(path)


def nothing(line: Line) -> Bad:
    path = line.folder / "bad.png"
    path.write_bytes(b"")
    return Bad(path)


def alpha(line: Line) -> Bad:
    path = line.folder / "bad.png"
    Image.new("LA", (40, 40), (90, 10)).save(path)
    return Bad(path)


def megapixels(line: Line) -> Bad:
    path = line.folder / "bad.png"
    Image.new("1", (7100, 7100)).save(path)
    return Bad(path)


def corrupt_graph(line: Line) -> Bad:
    path = line.bundle / "detector_fp32.xml"
    path.write_bytes(path.read_bytes()[:-40])
    return Bad()


def graph_that_is_none(line: Line) -> Bad:
    path = line.bundle / "detector_fp32.xml"
    path.write_text("<net/>")
    content = read_json(line.bundle / "metadata.json")
    content["sha256"]["detector_fp32.xml"] = sha256_file(path)
    write_json(line.bundle / "metadata.json", content)
    return Bad()


def foreign_metadata(line: Line) -> Bad:
    shutil.copy(line.other / "metadata.json", line.bundle)
    return Bad()


def foreign_signature(line: Line) -> Bad:
    private, _ = key_files(line.folder, "stranger")
    _, public = key_files(line.folder, "plant")
    sign(line.bundle, private)
    return Bad(key=public)


class Case(NamedTuple):
    """A bad input and what Python and C++ say about it."""

    make: Callable[[Line], Bad]
    python: str
    cpp: str
    status: int = 409  # of the service: for a bundle that it is told to load


CASES = {
    "no image": Case(text, "image file", "unreadable image", 422),
    "zero bytes": Case(nothing, "empty", "unreadable image", 422),
    "wrong channels": Case(alpha, "transparent pixels", "2 channels: save it as grey or RGB", 422),
    "50 megapixels": Case(megapixels, "pixels", "7100x7100 pixels", 413),
    "corrupt graph": Case(
        corrupt_graph, "detector_fp32.xml has SHA-256", "detector_fp32.xml is not the file that metadata.json"
    ),
    "graph that is none": Case(
        graph_that_is_none, "cannot be compiled for CPU", "cannot be compiled for CPU"
    ),
    "metadata of another model": Case(
        foreign_metadata,
        "detector_fp32.xml has SHA-256",
        "detector_fp32.xml is not the file that metadata.json",
    ),
    "wrong signature": Case(foreign_signature, "another key signed", "another key signed it"),
}


def write_good(path: Path) -> Path:
    """Write an image that every detector takes."""
    Image.fromarray(np.random.default_rng(0).integers(0, 200, (90, 120), dtype=np.uint8)).save(path)
    return path
