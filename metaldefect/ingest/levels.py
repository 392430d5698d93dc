"""Choose, once per dataset, how images with more than 8 bits per pixel are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import RejectedFileError
from metaldefect.image_files import (
    BIT_DEPTHS,
    DEEP_SUFFIXES,
    Levels,
    colours_of,
    has_deep_channels,
    read_original,
)
from metaldefect.ingest.parallel import map_threads

LEVELS = "levels.json"  # beside a sample table, and the key of a model's `config.json`


def write_dataset_levels(folder: Path, levels: Mapping[str, Levels]) -> None:
    """Record how each dataset with more than 8 bits per pixel was read, by the dataset's name."""
    write_json(folder / LEVELS, {name: asdict(one) for name, one in sorted(levels.items())})


def read_dataset_levels(folder: Path) -> dict[str, Levels]:
    """Read what `write_dataset_levels` recorded; empty for a folder without a record."""
    return parse_levels(read_json(folder / LEVELS)) if (folder / LEVELS).is_file() else {}


def levels_of_model(folder: Path) -> Levels | None:
    """How a model's training images with more than 8 bits were read.

    Args:
        folder: of a tokenizer or MaskGIT, with its `config.json`.

    Returns:
        None if it saw only 8 bits, or datasets that were read in several ways.
    """
    card = folder / "config.json"
    content = read_json(card).get("levels", {}) if card.is_file() else {}
    found = set(parse_levels(content).values())
    return found.pop() if len(found) == 1 else None


def parse_levels(content: Mapping[str, Mapping[str, float]]) -> dict[str, Levels]:
    """Levels by dataset from their JSON form."""
    return {
        name: Levels(float(one["low"]), float(one["high"]), bool(one["clip"]))
        for name, one in content.items()
    }


def find_levels(paths: Sequence[Path]) -> Levels | None:
    """The range of the camera's bit depth: the smallest of 8, 10, 12, 14 and 16 bits that holds every level.

    The images of one camera share a depth, so it must come from all of them. An image alone does not show it:
    a dark one of 14 bits looks like a bright one of 12.

    Returns:
        None if no readable image has 16 bits. Integers of 32 bits and floats have no usual range: the user
        has to state theirs.
    """
    deep = [path for path in paths if path.suffix.lower() in DEEP_SUFFIXES and is_16_bit(path)]
    found = map_threads(highest_level, deep, "find bit depth") if deep else ()
    highest = max((level for level in found if level is not None), default=None)
    if highest is None:
        return None
    return Levels.of_bits(next(bits for bits in BIT_DEPTHS if highest < 2**bits))


def is_16_bit(path: Path) -> bool:
    """Whether a file's header says 16 bits; False for a file that cannot be read."""
    try:
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            return image.mode.startswith("I;16") or has_deep_channels(image)
    except Exception:  # reading the file refuses it, with the reason
        return False


def highest_level(path: Path) -> int | None:
    """The highest level of an image; None if it cannot be read."""
    try:
        return int(colours_of(read_original(path)).max())
    except RejectedFileError:
        return None
