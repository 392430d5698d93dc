"""Real defects moved to other metal: what moves, what stays, and where nothing may change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from metaldefect.synthesis.change import Applied, Change, apply_change
from metaldefect.synthesis.config import TransplantConfig
from metaldefect.synthesis.photographs import Photograph, as_photograph
from metaldefect.synthesis.placement import Spot, free_place
from metaldefect.synthesis.transplant import (
    Defect,
    cut_defects,
    fill_hole,
    transplant,
)

STILL = TransplantConfig(turn=0.0, smallest=1.0, largest=1.0)
FEATHER = 6.0


def grainy(shape: tuple[int, ...], level: float, seed: int, grain: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, grain, shape)
    return np.clip(np.rint(level + noise), 0, 255).astype(np.uint8)


def dented(level: float = 120.0, depth: float = 50.0) -> tuple[Photograph, np.ndarray]:
    """Metal with a dark rectangle of 12 x 30 pixels, and its mask."""
    image = grainy((100, 120), level, 0).astype(float)
    mask = np.zeros(image.shape, bool)
    mask[40:52, 50:80] = True
    image[mask] -= depth
    return as_photograph(image.clip(0, 255).astype(np.uint8)), mask


def only_defect(level: float = 120.0) -> Defect:
    (defect,) = cut_defects(*dented(level), "a")
    return defect


def move(canvas: Photograph, defect: Defect, spot: Spot | None = None, seed: int = 0) -> Applied:
    spot = spot or Spot(np.zeros(canvas.shape, bool))
    change = transplant(canvas, defect, spot, np.random.default_rng(seed), STILL, FEATHER)
    assert change is not None
    return apply_change(canvas, change, FEATHER)


def test_a_moved_defect_has_its_depth_and_its_area() -> None:
    canvas = as_photograph(grainy((200, 200), 120, 1))
    found = move(canvas, only_defect(), Spot(np.zeros((200, 200), bool), centre=(100, 60)))
    assert found.visible
    truth = np.zeros((200, 200), bool)
    truth[94:106, 45:75] = True
    assert (found.mask & truth).sum() / (found.mask | truth).sum() > 0.75
    core = ndimage.binary_erosion(truth, iterations=3)
    depth = canvas.pixels[core].mean() - found.photograph.pixels[core].mean()
    assert depth == pytest.approx(50, abs=3)
    assert found.contrast == pytest.approx(45, abs=8)


@pytest.mark.parametrize(("level", "depth"), [(60, 30), (120, 50), (180, 75), (30, 27)])
def test_darker_metal_shows_less_contrast_and_nothing_clips(level: float, depth: float) -> None:
    # Level 60 is limited to 0.6 times the contrast at 120, level 30 by what is left to black
    canvas = as_photograph(grainy((200, 200), level, 1))
    found = move(canvas, only_defect(), Spot(np.zeros((200, 200), bool), centre=(100, 60)))
    core = (slice(98, 102), slice(50, 70))
    assert canvas.pixels[core].mean() - found.photograph.pixels[core].mean() == pytest.approx(depth, abs=3)


@pytest.mark.parametrize("seed", range(4))
def test_outside_the_feather_of_the_written_mask_no_value_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(300, 3500, (180, 160, 3)).astype(np.uint16)
    canvas = as_photograph(pixels)
    config = TransplantConfig()
    change = transplant(canvas, only_defect(), Spot(np.zeros((180, 160), bool)), rng, config, FEATHER)
    assert change is not None
    found = apply_change(canvas, change, FEATHER)
    assert found.visible
    far = ndimage.distance_transform_edt(~found.mask) >= FEATHER
    assert far.sum() > 20_000
    assert np.array_equal(found.photograph.pixels[far], pixels[far])
    assert not np.array_equal(found.photograph.pixels[found.mask], pixels[found.mask])
    assert found.photograph.pixels.dtype == np.uint16


def test_where_a_generous_mask_covers_grain_the_canvas_keeps_its_own() -> None:
    photograph, mask = dented()
    generous = ndimage.binary_dilation(mask, iterations=14)
    (defect,) = cut_defects(photograph, generous, "a")
    canvas = as_photograph(grainy((200, 200), 120, 1))
    change = transplant(
        canvas, defect, Spot(np.zeros((200, 200), bool), centre=(100, 100)), np.random.default_rng(0),
        STILL, FEATHER,
    )  # fmt: skip
    assert change is not None
    grain = change.brush.copy()
    grain[13:-13, 13:-13] = False  # the dent of 12 x 30 pixels, and 8 around it
    assert grain.sum() > 500
    assert np.abs(change.added[grain]).mean() < 0.3  # moved grain would differ by 2 from the canvas's


def test_the_grain_under_a_defect_is_not_doubled() -> None:
    coarse = as_photograph(grainy((200, 200), 120, 1, grain=8.0))
    image = grainy((100, 120), 120, 5, grain=8.0).astype(float)
    mask = np.zeros(image.shape, bool)
    mask[30:70, 40:90] = True
    image[mask] -= 60
    (defect,) = cut_defects(as_photograph(image.clip(0, 255).astype(np.uint8)), mask, "a")
    found = move(coarse, defect, Spot(np.zeros((200, 200), bool), centre=(100, 100)))
    inside = found.photograph.pixels[88:112, 85:115].astype(float)
    assert inside.std() == pytest.approx(8.0, abs=1.5)  # added to the canvas's own it would be 11.3


def test_a_defect_is_measured_against_sloping_light() -> None:
    rows, columns = np.mgrid[:64, :64]
    ramp = (rows + 2 * columns).astype(np.float32)[..., None]
    hole = np.zeros((64, 64), bool)
    hole[24:36, 20:40] = True
    assert np.abs(fill_hole(ramp, hole) - ramp).max() < 8  # the hole's corners differ by 51
    (defect,) = cut_defects(as_photograph(ramp[..., 0].astype(np.uint8)), hole, "a")
    assert np.abs(defect.residual).max() < 8


def test_parts_far_apart_are_defects_of_their_own_and_specks_are_none() -> None:
    photograph, mask = dented()
    mask = mask.copy()
    mask[10:20, 10:20] = True
    mask[90, 90] = True
    defects = cut_defects(photograph, mask, "a")
    assert [int(defect.mask.sum()) for defect in defects] == [360, 100]
    assert [defect.cut for defect in defects] == [False, False]
    edge = np.zeros(mask.shape, bool)
    edge[0:10, 40:60] = True
    assert cut_defects(photograph, edge, "b")[0].cut
    assert cut_defects(photograph, np.ones(mask.shape, bool), "c") == []


def test_size_mask_and_place_are_obeyed() -> None:
    canvas = as_photograph(grainy((200, 300), 120, 1))
    taken = np.zeros(canvas.shape, bool)
    large = move(canvas, only_defect(), Spot(taken, centre=(90, 150), size=90))
    rows, columns = np.where(large.mask)
    assert np.ptp(columns) + 1 == pytest.approx(90, abs=6)
    assert (rows.mean(), columns.mean()) == (pytest.approx(90, abs=3), pytest.approx(150, abs=3))
    region = np.zeros(canvas.shape, bool)
    region[20:30, 200:240] = True
    within = move(canvas, only_defect(), Spot(taken, mask=region))
    assert not (within.mask & (ndimage.distance_transform_edt(~region) > FEATHER)).any()


def test_a_thin_defect_that_passes_between_the_parts_of_a_mask_is_turned_again() -> None:
    canvas = as_photograph(grainy((200, 200), 120, 1))
    corners = np.zeros(canvas.shape, bool)
    corners[60:76, 60:76] = corners[124:140, 124:140] = True
    spot = Spot(np.zeros(canvas.shape, bool), mask=corners)
    defect, config = only_defect(), TransplantConfig(turn=90.0)
    changes = [
        transplant(canvas, defect, spot, np.random.default_rng(seed), config, FEATHER) for seed in range(12)
    ]
    assert None in changes
    found = [change for change in changes if change is not None]
    assert found
    assert all(change.brush.any() and not (change.brush & ~corners[change.window]).any() for change in found)


def test_a_free_place_is_free_and_a_full_photograph_has_none() -> None:
    taken = np.zeros((60, 60), bool)
    taken[:, :40] = True
    region = np.ones((10, 10), bool)
    rng = np.random.default_rng(0)
    for _ in range(20):
        place = free_place(rng, region, Spot(taken))
        assert place is not None
        assert place[1] >= 40
    taken[:] = True
    assert free_place(rng, region, Spot(taken)) is None
    assert free_place(rng, np.ones((70, 10), bool), Spot(np.zeros((60, 60), bool))) is None


def test_what_cannot_be_seen_is_no_defect() -> None:
    canvas = as_photograph(grainy((60, 60), 120, 1))
    added = np.full((20, 20, 1), 4.0, np.float32)
    change = Change((slice(20, 40), slice(20, 40)), added, np.ones((20, 20), bool), "", {})
    found = apply_change(canvas, change, FEATHER)
    assert not found.visible
    assert not found.mask.any()
    assert found.photograph is canvas
    assert apply_change(canvas, change._replace(added=10 * added), FEATHER).visible


def test_grey_defects_keep_the_hue_of_coloured_metal_and_coloured_ones_keep_their_own() -> None:
    brass = np.full((60, 60, 3), (200, 160, 80), np.uint8)
    window = (slice(20, 40), slice(20, 40))
    grey = Change(window, np.full((20, 20, 1), -50.0, np.float32), np.ones((20, 20), bool), "", {})
    after = apply_change(as_photograph(brass), grey, FEATHER).photograph.pixels[30, 30].astype(float)
    assert after / after.sum() == pytest.approx(brass[0, 0] / brass[0, 0].sum(), abs=0.02)
    rust = grey._replace(added=np.full((20, 20, 3), (20.0, -30.0, -60.0), np.float32))
    found = apply_change(as_photograph(brass), rust, FEATHER)
    assert found.photograph.pixels[30, 30].tolist() == [220, 130, 20]
    on_grey = apply_change(as_photograph(brass[..., 0].copy()), rust, FEATHER)
    assert on_grey.photograph.pixels[30, 30] == round(200 + 0.299 * 20 - 0.587 * 30 - 0.114 * 60)
