"""Windows of hot-rolled steel strip with and without defects, cut from SD-saliency-900: a set for a detector.

Its photographs all show a defect, with exact masks. Where a window beside the defect is free, it becomes a
good image; elsewhere a window around the defect becomes a defective one. One window per photograph, so that
no photograph lies on both sides of a split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.images import U8, read_grey, write_png

SIDE, STEP = 128, 8  # px, of photographs of 200 x 200
CLEARANCE = 8  # px around a good window that are free of defects as well
PHOTOGRAPHS, MASKS = Path("Source Images"), Path("Ground truth")
LABELS = {"In": "inclusion", "Pa": "patches", "Sc": "scratches"}
# Every third photograph shows its defect, even if it has a good window
DEFECT_EVERY = 3


def write_windows(root: Path, output: Path) -> dict[str, int]:
    """Write `good/`, `<label>/` and `masks/<label>/`, one window per photograph.

    Args:
        root: SD-saliency-900 as published.
        output: new folder.

    Returns:
        Number of windows by label.
    """
    counts: dict[str, int] = {}
    for number, path in enumerate(tqdm(sorted((root / PHOTOGRAPHS).iterdir()), desc="cut windows")):
        image, mask = read_grey(path), read_grey(root / MASKS / f"{path.stem}.png") > 127
        place = free_window(mask)
        if place is not None and number % DEFECT_EVERY:
            label = "good"
            write_window(output / label / f"{path.stem}.png", image, place)
        elif mask.any():
            label, place = LABELS[path.stem.split("_")[0]], window_around(mask)
            write_window(output / label / f"{path.stem}.png", image, place)
            write_window(output / "masks" / label / f"{path.stem}.png", mask.astype(np.uint8) * 255, place)
        else:
            continue
        counts[label] = counts.get(label, 0) + 1
    return counts


def free_window(mask: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Row and column of one of the windows that keep clear of the defect; None if there is none."""
    height, width = mask.shape
    padded = np.pad(mask, CLEARANCE)
    side = SIDE + 2 * CLEARANCE
    places = [
        (row, column)
        for row in range(0, height - SIDE + 1, STEP)
        for column in range(0, width - SIDE + 1, STEP)
        if not padded[row : row + side, column : column + side].any()
    ]
    return places[len(places) // 2] if places else None


def window_around(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the window whose middle is nearest to the middle of the defect."""
    middles = [int(values.mean()) for values in np.nonzero(mask)]
    row, column = (
        min(max(middle - SIDE // 2, 0), length - SIDE)
        for middle, length in zip(middles, mask.shape, strict=True)
    )
    return row, column


def write_window(path: Path, image: U8, place: tuple[int, int]) -> None:
    """Cut a window out of an image and write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, image[place[0] : place[0] + SIDE, place[1] : place[1] + SIDE])
