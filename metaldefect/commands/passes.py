"""How often a run scores an image outside its training, from which its budget of minutes follows."""

from __future__ import annotations

from collections.abc import Sequence

from metaldefect.commands.export import RANGE_IMAGES
from metaldefect.deploy.bundle import PRECISIONS
from metaldefect.efficientad.calibration import CalibrationImages
from metaldefect.efficientad.held_out import (
    CALIBRATION_CANVASES,
    CALIBRATION_DEFECTS,
    CURVE_DEFECTS,
    CURVE_NORMALS,
)
from metaldefect.images import ImageSize, height_and_width
from metaldefect.inspection.provider import DatasetProvider, InspectionImage
from metaldefect.tiling import plan_tiles


def passes_expected(provider: DatasetProvider, unseen: int | None) -> int:
    """`passes_around_training`, before images are read and defects painted at a size."""
    painted = len(provider.defects()) or CALIBRATION_DEFECTS
    calibration = len(provider.validation()) + min(len(provider.canvases()), CALIBRATION_CANVASES) + painted
    curve = CURVE_NORMALS + CURVE_DEFECTS
    return passes_around_training(calibration, curve, len(provider.train()), len(provider.test()), unseen)


def count_images(images: CalibrationImages) -> int:
    """Good images and defects."""
    return len(images.normals) + len(images.defects)


def passes_around_training(calibration: int, curve: int, train: int, test: int, unseen: int | None) -> int:
    """How many images the networks score outside the training, of those that the budget has not seen yet.

    The teacher alone describes every training image, a third of a detector's work. The test images are scored
    twice, with the chosen score and with the paper's. So are the calibration's images, and once more twice by
    each exported precision, which also scores the images that drift is measured against.

    Args:
        calibration: its images, good and defective.
        curve: the same for the validation curve, whose last point lies behind the end of the training.
        train: training images.
        test: passes over the test images.
        unseen: passes over the images that drift is measured against; None: nothing is exported.
    """
    exported = 0 if unseen is None else len(PRECISIONS) * (2 * calibration + unseen) + RANGE_IMAGES
    return 2 * calibration + exported + 2 * test + train // 2 + curve


def count_passes(images: Sequence[InspectionImage], size: ImageSize, tiles: int | None) -> int:
    """How often the networks run to score whole images; all count as large as the first."""
    if tiles is None or not images:
        return len(images)
    height, width = images[0].image.shape[:2]
    return len(images) * len(plan_tiles((height, width), height_and_width(size), tiles))
