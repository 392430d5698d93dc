"""Who may look at which held-out image: the curve during training, or the calibration after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metaldefect.efficientad.calibration import CalibrationImages
from metaldefect.images import ImageSize
from metaldefect.inspection.painted import paint_defects
from metaldefect.inspection.provider import DatasetProvider, InspectionImage
from metaldefect.inspection.tiles import number_wholes

# More images make every point of the curve dearer.
CURVE_NORMALS, CURVE_DEFECTS = 12, 26
CALIBRATION_CANVASES, CALIBRATION_DEFECTS = 32, 52


@dataclass(frozen=True)
class HeldOut:
    """Held-out images by purpose; no scene serves both.

    Attributes:
        calibration: for map scales, map weights and threshold.
        curve: for the validation curve; None if there are too few images for one.
        note: what the images do not allow; empty if they allow everything.
    """

    calibration: CalibrationImages
    curve: CalibrationImages | None
    note: str


def hold_out(provider: DatasetProvider, size: ImageSize, seed: int) -> HeldOut:
    """Divide the held-out images of a provider, by scene.

    A provider with inserted defects keeps them for the calibration. Otherwise half of the canvases' scenes
    get painted defects for the curve, the other half for the calibration; the latter's clean images join the
    validation normals, so the threshold rests on as many images as possible.

    Args:
        provider: the images.
        size: of the images that the detector sees.
        seed: of the painted defects.
    """
    validation, inserted = list(provider.validation()), list(provider.defects())
    if inserted:
        note = "the inserted defects are all kept for the calibration: no validation curve"
        return HeldOut(CalibrationImages.of(validation, inserted, size), None, note)
    canvases = list(provider.canvases())
    for_curve, for_calibration = halves(canvases)
    for_calibration = of_first_wholes(for_calibration, CALIBRATION_CANVASES)
    painted = paint_defects(for_calibration, size, CALIBRATION_DEFECTS, seed)
    calibration = CalibrationImages.of([*validation, *for_calibration], painted, size)
    if not for_curve:
        note = f"{len(canvases)} good images to insert defects into: too few for a validation curve"
        return HeldOut(calibration, None, note)
    for_curve = for_curve[:CURVE_NORMALS]
    curve = CalibrationImages.of(for_curve, paint_defects(for_curve, size, CURVE_DEFECTS, seed + 1), size)
    return HeldOut(calibration, curve, "")


def of_first_wholes(images: Sequence[InspectionImage], count: int) -> list[InspectionImage]:
    """All tiles of the first `count` images; of images that are no tiles, the first `count`."""
    numbers = number_wholes(images)
    return [item for item, number in zip(images, numbers, strict=True) if number < count]


def halves(images: Sequence[InspectionImage]) -> tuple[list[InspectionImage], list[InspectionImage]]:
    """Images of every second scene, and those of the others; one scene alone goes to the second half."""
    scenes = sorted({item.scene for item in images})
    first = set(scenes[1::2])
    return [item for item in images if item.scene in first], [
        item for item in images if item.scene not in first
    ]
