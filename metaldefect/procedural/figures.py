"""Contact sheets of the procedural datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from skimage.segmentation import find_boundaries

from metaldefect.images import U8, read_grey

COLUMNS = 8


def sample_figures(root: Path) -> dict[str, Figure]:
    """Contact sheets of the datasets that `write_sample_datasets` wrote below `root`."""
    return {
        "one_row_per_class": contact_sheet(class_rows(root)),
        "test_defects_with_mask_outlines": contact_sheet(outlined_rows(root / "inspection")),
    }


def class_rows(root: Path) -> dict[str, list[U8]]:
    """The first images of normal metal, of each NEU-DET class and of each X-SDD class, by row name."""
    folders = {"normal": root / "inspection/train/good"}
    folders |= {folder.name: folder for folder in sorted((root / "NEU-DET/train/images").iterdir())}
    folders |= {f"X-SDD: {folder.name}": folder for folder in sorted((root / "X-SDD/datas").iterdir())}
    return {name: [read_grey(path) for path in first_files(folder)] for name, folder in folders.items()}


def outlined_rows(root: Path) -> dict[str, list[U8]]:
    """The first test images of each defect class, with the masks outlined in white."""
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
    """The first files of a folder in natural order: `x_2` before `x_10`."""
    return sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))[:COLUMNS]


def outline(image: U8, mask: U8) -> U8:
    """Draw a mask's border in white on an image; returns a new `uint8 [H, W]`."""
    return np.where(find_boundaries(mask > 127, mode="outer"), np.uint8(255), image)


def contact_sheet(rows: dict[str, list[U8]]) -> Figure:
    """Lay out rows of images, with each row's name on the left."""
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
