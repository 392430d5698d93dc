"""Memory does not grow with the number of images that are scored, measured, shown or calibrated with."""

from __future__ import annotations

import tracemalloc
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from metaldefect.efficientad import residual_metric
from metaldefect.efficientad.calibration import CalibrationImages, maps_of, pixels_on_disk
from metaldefect.efficientad.evaluation import pro_table, score_images, score_table, summarise
from metaldefect.efficientad.figures import detector_figures, insertion_figure
from metaldefect.efficientad.residual_metric import Moments, cross_fitted_maps
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import InspectionImage, InspectionImages
from tests.efficientad.test_residual_metric import ResidualInTheImage

SIDE = 256
MAP_BYTES = 4 * SIDE**2
SMALL = 128  # px, the size of the stand-in detector
FEW, MANY = 12, 48


def draw(number: int) -> InspectionImage:
    """Every second image has a defect of 40 pixels."""
    image = np.random.default_rng(number).integers(0, 100, (SIDE, SIDE), np.uint8)
    if number % 2:
        return InspectionImage(image, None, GOOD, str(number), str(number))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[100:104, 100:110] = True
    return InspectionImage(
        np.where(mask, 200, image).astype(np.uint8), mask, "dent", str(number), str(number)
    )


def detect(image: np.ndarray) -> tuple[float, np.ndarray]:
    return float(image.max()), image.astype(np.float32)


def evaluate(count: int) -> int:
    """Peak of the memory, in bytes, that numpy and Python allocate while images are evaluated."""
    images = InspectionImages([partial(draw, number) for number in range(count)])
    tracemalloc.start()
    try:
        scored = score_images(detect, images, SIDE, "score")
        found = summarise(scored, 150.0, seed=0, samples=5)
        assert (found["image_auroc"], found["au_pro"], found["pixel_auroc"]) == (1.0, 1.0, 1.0)
        groups = {"images": scored}
        assert len(score_table(groups)) == count
        assert len(pro_table(groups)) > 0
        detector_figures(groups, 150.0)
        insertion_figure(scored, (item.image for item in images), 150.0)
        plt.close("all")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_evaluation_keeps_no_image_mask_or_map_in_memory() -> None:
    evaluate(4)  # imports and caches
    few, many = evaluate(FEW), evaluate(MANY)
    assert (many - few) / (MANY - FEW) < MAP_BYTES / 10


def lies_in_a_file(address: int) -> bool:
    """Whether memory at an address belongs to a mapped file, as the kernel says."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(bound, 16) for bound in line.split(" ", 1)[0].split("-"))
        if start <= address < end:
            return line.split()[4] != "0"  # the inode
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs Linux")
def test_calibration_keeps_images_maps_and_residuals_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not lies_in_a_file(np.ones(10**6).ctypes.data)
    kept: list[torch.Tensor] = []
    alive: weakref.WeakSet[Moments] = weakref.WeakSet()
    most_alive = []

    def watch_map(described: tuple[torch.Tensor, torch.Tensor], *rest: Any) -> Any:
        kept.extend(described)
        return maps_with(described, *rest)

    def watch_moments(residual: torch.Tensor) -> Moments:
        found = moments_of(residual)
        alive.add(found)
        most_alive.append(len(alive))
        return found

    maps_with, moments_of = residual_metric.maps_with, Moments.of
    monkeypatch.setattr(residual_metric, "maps_with", watch_map)
    monkeypatch.setattr(Moments, "of", watch_moments)
    monkeypatch.setattr(Moments, "__hash__", object.__hash__)
    model = ResidualInTheImage("S").eval()
    good = InspectionImages([partial(draw, 2 * number + 1) for number in range(FEW)])
    bad = InspectionImages([partial(draw, 2 * number) for number in range(FEW)])
    images = CalibrationImages.of(good, bad, SMALL)
    assert images.normals.shape == images.defects.shape == (FEW, SMALL, SMALL)
    found, _ = cross_fitted_maps(
        model, images.normals, images.scenes, images.defects, images.defect_scenes, [1.0]
    )
    kept += [one for maps in found[1.0] for pair in maps for one in pair]
    kept += [one for pair in maps_of(model, images.normals) for one in pair]
    assert len(kept) == 4 * FEW + 4 * FEW + 2 * FEW
    arrays = [images.normals, images.defects, pixels_on_disk(kept[-2:]), *(one.numpy() for one in kept)]
    assert all(lies_in_a_file(array.ctypes.data) for array in arrays)
    assert len(most_alive) == FEW
    assert max(most_alive) <= 3, "sums replace the moments of single images"
