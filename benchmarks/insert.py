"""Measure `metaldefect insert`: images per second by method, and that it keeps what it should.

`python -m benchmarks.insert [--images 16]` inserts one defect of 128 pixels into each of so many photographs
of 1,000 x 1,000 pixels, with the models of the last run. It writes `benchmarks/results/insert.json` and
prints it last.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from benchmarks.results import add_results_argument, publish
from metaldefect.commands.insert import insert
from metaldefect.commands.insert_settings import InsertSettings
from metaldefect.errors import exit_on_user_error
from metaldefect.hardware import workers
from metaldefect.images import read_grey, write_png
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image
from metaldefect.synthesis.config import Method

SIDE, DEFECT = 1000, 128  # pixels
REAL_DEFECTS = 8
LABEL = "scratches"
METHODS: tuple[Method, ...] = ("transplant", "procedural", "drawn")


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.insert", description=__doc__)
    parser.add_argument("--images", type=int, default=16, help="photographs (default: %(default)s)")
    parser.add_argument("--tokenizer", type=Path, default=Path("models/vq"))
    parser.add_argument("--maskgit", type=Path, default=Path("models/maskgit"))
    add_results_argument(parser, "insert")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as name:
        figures, details = measure(
            Path(name), arguments.images, {"tokenizer": arguments.tokenizer, "maskgit": arguments.maskgit}
        )
    publish(arguments.results, "insert", figures, details)


def measure(folder: Path, images: int, models: dict[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Insert with every method, twice with one seed; figures and details of the result."""
    for number in range(images):
        write_png(folder / f"good/{number}.png", generate_normal_image(number, SIDE))
    kind = next(iter(ANOMALIES))
    for number in range(REAL_DEFECTS):
        image, mask = generate_anomalous_image(kind, np.random.default_rng(number), 256)
        write_png(folder / f"defects/{number}.png", image)
        write_png(folder / f"masks/{number}.png", mask.astype(np.uint8) * 255)
    figures: dict[str, Any] = {}
    for method in METHODS:
        outputs = [folder / f"{method}{run}" for run in range(2)]
        settings = [
            InsertSettings(
                images=folder / "good", label=(LABEL,), output=output, method=method, size=DEFECT, seed=7,
                defects=folder / "defects" if method == "transplant" else None,
                defect_masks=folder / "masks" if method == "transplant" else None, **models,
            )
            for output in outputs
        ]  # fmt: skip
        start = time.perf_counter()
        done = insert(settings[0])
        figures[f"{method}_images_per_s"] = images / (time.perf_counter() - start)
        figures[f"{method}_defects"] = done.defects
        insert(settings[1])
        figures[f"{method}_changed_beyond_feather"] = changed_beyond(outputs[0], settings[0].feather)
        figures[f"{method}_equal_again"] = int(same_files(*outputs))
    return figures, {"images": images, "side": SIDE, "defect": DEFECT, "workers": workers()}


def changed_beyond(output: Path, feather: float) -> int:
    """Number of pixels that changed farther than the feather from the written masks."""
    table = pd.read_parquet(output / "manifest.parquet")
    found = 0
    for row in table[table["visible"]].itertuples():
        changed = read_grey(output / str(row.image)) != read_grey(str(row.canvas))
        mask = read_grey(output / str(row.mask)) > 0
        found += int((changed & (ndimage.distance_transform_edt(~mask) >= feather)).sum())
    return found


def same_files(first: Path, second: Path) -> bool:
    """Whether two outputs hold the same images and masks, byte for byte."""
    names = sorted(path.relative_to(first) for path in first.rglob("*.png"))
    return names == sorted(path.relative_to(second) for path in second.rglob("*.png")) and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names
    )


if __name__ == "__main__":
    with exit_on_user_error("benchmarks.insert"):
        main()
