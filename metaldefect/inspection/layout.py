"""The folder layout of a detector's dataset: MVTec AD's, plus a split of canvases and each image's scene.

A folder holds `train/good`, `validation/good`, `canvas/good`, `test/good`, `test/<kind>`,
`ground_truth/<kind>/<stem>_mask.png`, `scenes.csv` and `levels.json`. Only `metaldefect.ingest.inspection`
writes such folders, so every dataset follows its rules against leaks.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import UserError
from metaldefect.image_files import Levels

GOOD = "good"
CANVAS = "canvas"
SCENES = "scenes.csv"
INSERTIONS = "insertions.csv"
LEVELS = "levels.json"


def mask_path(root: Path, kind: str, stem: str) -> Path:
    """The path of an image's mask."""
    return root / "ground_truth" / kind / f"{stem}_mask.png"


def write_scenes(root: Path, scenes: Mapping[str, str]) -> None:
    """Write `scenes.csv`: the scene of every image, by the image's path inside `root`."""
    with (root / SCENES).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "scene"))
        writer.writerows(sorted(scenes.items()))


def read_scenes(root: Path) -> dict[str, str]:
    """Read the scene of every image, by the image's path inside `root`.

    Raises:
        UserError: `root` is not a prepared dataset: it has no `scenes.csv`.
    """
    path = root / SCENES
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: {root} is not a prepared dataset; `metaldefect train` prepares one from"
            " any known layout, the stage `merge` writes data/merged/inspection"
        )
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["path"]: row["scene"] for row in csv.DictReader(stream)}


def write_levels(root: Path, levels: Levels | None) -> None:
    """Record how the dataset's images with more than 8 bits were read; None if there were none."""
    write_json(root / LEVELS, levels and asdict(levels))


def read_levels(root: Path) -> Levels | None:
    """Read what `write_levels` recorded; None for a folder without a record."""
    content = read_json(root / LEVELS) if (root / LEVELS).is_file() else None
    return content and Levels(**content)
