"""The image size is chosen by painted defects: sizes, rule, and both ends on planted images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import ndimage

from metaldefect.efficientad.size_choice import candidates, choose_size, pick
from metaldefect.efficientad.teacher_weights import load_teacher, shipped_teacher
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.inspection.provider import InspectionImage

SIDE = 256


@pytest.fixture(scope="module")
def teacher() -> PatchDescriptionNetwork:
    return load_teacher(shipped_teacher("S"), padding=True)


class Planted:
    """A provider of metal made by `draw` with defects made by `spoil`."""

    channels = 1

    def __init__(self, draw, spoil, normals: int = 12, defects: int = 12) -> None:  # type: ignore[no-untyped-def]
        self.draw, self.spoil, self.counts = draw, spoil, (normals, defects)

    def items(self, first: int, count: int, spoil: bool = False) -> list[InspectionImage]:
        found = []
        for number in range(first, first + count):
            rng = np.random.default_rng(number)
            image = self.draw(rng)
            if spoil:
                image = self.spoil(image, rng)
            pixels = np.clip(image, 0, 255).astype(np.uint8)
            found.append(InspectionImage(pixels, None, "good", f"{number}", f"scene {number}"))
        return found

    def train(self) -> Sequence[InspectionImage]:
        return self.items(0, 10)

    def validation(self) -> Sequence[InspectionImage]:
        return self.items(100, self.counts[0])

    def defects(self) -> Sequence[InspectionImage]:
        return self.items(200, self.counts[1], spoil=True)

    def canvases(self) -> Sequence[InspectionImage]:
        return []


def coarse_shade(rng: np.random.Generator) -> np.ndarray:
    """Metal whose shade changes slowly, by another amount on each piece."""
    shade = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 60)
    return 128 + 25 * shade / shade.std() + rng.normal(size=(SIDE, SIDE))


def grain(rng: np.random.Generator) -> np.ndarray:
    """Metal with grain of single pixels, whose strength differs from piece to piece."""
    return 128 + rng.uniform(10, 50) * rng.normal(size=(SIDE, SIDE))


def etching(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A patch of alternating pixels, whose mean a smaller image shows."""
    row, column = rng.integers(40, SIDE - 72, 2)
    rows, columns = np.mgrid[row : row + 32, column : column + 32]
    spoilt: np.ndarray = image.copy()
    spoilt[rows, columns] += np.where((rows + columns) % 2, 20, -20)
    return spoilt


def wide_shadow(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shadow with soft edges over a tenth of the image; grain hides it at full size."""
    mask = np.zeros((SIDE, SIDE))
    row, column = rng.integers(60, SIDE - 60, 2)
    mask[row - 40 : row + 40, column - 40 : column + 40] = 1
    return image - 30 * ndimage.gaussian_filter(mask, 10)


def test_literal_candidates() -> None:
    assert candidates(256) == [256, 192, 128]
    assert candidates((320, 200)) == [(320, 200), (240, 152)]
    assert candidates((408, 160)) == [(408, 160)]


def test_the_smallest_of_the_sizes_about_as_good_as_the_best() -> None:
    assert pick({256: 0.70, 192: 0.75, 128: 0.745}) == 128
    assert pick({256: 0.70, 192: 0.75, 128: 0.72}) == 192
    assert pick({256: 0.80, 192: 0.78, 128: 0.60}) == 256


def test_painted_defects_that_are_all_found_cannot_tell() -> None:
    assert pick({256: 0.98, 192: 1.0, 128: 0.99}) == 256


def test_grain_asks_for_a_smaller_size(teacher: PatchDescriptionNetwork) -> None:
    choice = choose_size(Planted(grain, wide_shadow), SIDE, teacher, 0)
    assert choice.size in (192, 128)
    assert choice.aurocs[str(choice.size)] > choice.aurocs["256"] + 0.02
    assert f"image size: {choice.size}; before any training" in choice.why


def test_pixel_fine_defects_keep_the_full_size(teacher: PatchDescriptionNetwork) -> None:
    choice = choose_size(Planted(coarse_shade, etching), SIDE, teacher, 0)
    assert choice.size == SIDE
    assert choice.aurocs["256"] > choice.aurocs["128"] + 0.1


def test_too_few_images_keep_the_full_size(teacher: PatchDescriptionNetwork) -> None:
    choice = choose_size(Planted(grain, wide_shadow, normals=9), SIDE, teacher, 0)
    assert (choice.size, choice.aurocs) == (SIDE, {})
    assert "9 good images are held out, and smaller sizes are tried from 10 on" in choice.why
    choice = choose_size(Planted(grain, wide_shadow, defects=9), SIDE, teacher, 0)
    assert (choice.size, choice.aurocs) == (SIDE, {})
    assert "9 defects are inserted, and smaller" in choice.why
    assert choose_size(Planted(grain, wide_shadow), (408, 160), teacher, 0) == ((408, 160), {}, "")
