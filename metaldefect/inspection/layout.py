"""The folder layout of a detector's dataset: MVTec AD's, plus a split of canvases and each image's scene.

A folder holds `train/good`, `validation/good`, `canvas/good`, `test/good`, `test/<kind>`,
`ground_truth/<kind>/<stem>_mask.png` and `scenes.csv`. Only `metaldefect.ingest.inspection` writes such
folders, so every dataset follows its rules against leaks.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from metaldefect.errors import UserError

GOOD = "good"
CANVAS = "canvas"
SCENES = "scenes.csv"
INSERTIONS = "insertions.csv"


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
