"""Write procedural images in the layouts of the real datasets: the default input, which needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from skimage.segmentation import find_boundaries

from metaldefect.artifacts import write_json
from metaldefect.images import U8, read_grey
from metaldefect.procedural.datasets import SampleCounts, write_sample_datasets
from pipeline.params import Params
from pipeline.run import StageRun, run_stage

OUT = Path("data/sample")
METRICS = Path("metrics/sample.json")
PLOTS = Path("plots/sample")
COLUMNS = 8


def main(params: Params, run: StageRun) -> None:
    """Write `data/sample`, its counts and its contact sheets."""
    counts = SampleCounts(**params.sample.model_dump())
    written = write_sample_datasets(OUT, counts, params.seed)
    metrics = {"images": written, "total": sum(written.values())}
    write_json(METRICS, metrics)
    run.log_metrics(metrics)
    PLOTS.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("one_row_per_class.png", class_rows(OUT)),
        ("test_defects_with_mask_outlines.png", outlined_rows(OUT / "inspection")),
    ):
        figure = contact_sheet(rows)
        figure.savefig(PLOTS / name, dpi=80)
        run.log_figure(figure, name)


def class_rows(root: Path) -> dict[str, list[U8]]:
    """The first images of normal metal, of each NEU-DET class and of each X-SDD class, by name."""
    folders = {"normal": root / "inspection/train/good"}
    folders |= {folder.name: folder for folder in sorted((root / "NEU-DET/train/images").iterdir())}
    folders |= {f"X-SDD: {folder.name}": folder for folder in sorted((root / "X-SDD/datas").iterdir())}
    return {name: [read_grey(path) for path in first_files(folder)] for name, folder in folders.items()}


def outlined_rows(root: Path) -> dict[str, list[U8]]:
    """The first test images of each defect class with their masks outlined in white."""
    rows = {}
    for folder in sorted((root / "ground_truth").iterdir()):
        rows[folder.name] = [
            outline(
                read_grey(root / "test" / folder.name / f"{path.stem.removesuffix('_mask')}.png"),
                read_grey(path),
            )
            for path in first_files(folder)
        ]
    return rows


def first_files(folder: Path) -> list[Path]:
    """The first files of a folder as a person counts: `x_2` before `x_10`."""
    return sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))[:COLUMNS]


def outline(image: U8, mask: U8) -> U8:
    """Draw the border of a mask into an image."""
    return np.where(find_boundaries(mask > 127, mode="outer"), np.uint8(255), image)


def contact_sheet(rows: dict[str, list[U8]]) -> Figure:
    """Lay out rows of images, each with its name at the left."""
    figure = Figure(figsize=(1.5 * COLUMNS + 1.6, 1.5 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for axes_row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis in axes_row:
            axis.set_axis_off()
        for axis, image in zip(axes_row, images, strict=False):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        label = name.replace(": ", ":\n").replace(" of ", "\nof ")
        axes_row[0].text(-0.08, 0.5, label, transform=axes_row[0].transAxes, ha="right", va="center")
    return figure


if __name__ == "__main__":
    run_stage("sample", main)
