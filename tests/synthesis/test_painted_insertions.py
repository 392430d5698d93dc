"""Procedural and drawn defects in photographs of any size: in a window of their own, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from metaldefect.errors import UserError
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis import drawn_insertion
from metaldefect.synthesis.change import apply_change
from metaldefect.synthesis.drawn_insertion import draw_defect
from metaldefect.synthesis.inpainting import Inpainted, Prepared
from metaldefect.synthesis.painter import load_painter
from metaldefect.synthesis.photographs import Photograph, as_photograph
from metaldefect.synthesis.placement import Spot
from metaldefect.synthesis.procedural_insertion import PAINTERS, paint_defect
from tests.tiny_models import save_tiny_painter

FEATHER = 6.0


def metal(shape: tuple[int, ...], level: float = 130.0, seed: int = 0) -> Photograph:
    noise = np.random.default_rng(seed).normal(0, 3, shape)
    return as_photograph(np.clip(np.rint(level + noise), 0, 255).astype(np.uint8))


def nothing_taken(canvas: Photograph) -> np.ndarray:
    return np.zeros(canvas.shape, bool)


@pytest.mark.parametrize("label", PAINTERS)
def test_painted_defects_can_be_seen_and_change_nothing_else(label: str) -> None:
    canvas = metal((400, 500))
    seen = 0
    for seed in range(3):
        spot = Spot(nothing_taken(canvas))
        change = paint_defect(canvas, label, spot, np.random.default_rng(seed), FEATHER)
        assert change is not None
        found = apply_change(canvas, change, FEATHER)
        far = ndimage.distance_transform_edt(~found.mask) >= FEATHER if found.visible else ~found.mask
        assert np.array_equal(found.photograph.pixels[far], canvas.pixels[far])
        seen += found.visible
    assert seen >= 2


def test_a_painted_defect_has_the_size_and_the_place_that_were_asked_for() -> None:
    canvas = metal((600, 700))
    for seed, label in enumerate(("scratch", "contamination", "patches", "misplaced_object")):
        spot = Spot(nothing_taken(canvas), centre=(300, 400), size=100)
        change = paint_defect(canvas, label, spot, np.random.default_rng(seed), FEATHER)
        assert change is not None
        rows, columns = np.where(apply_change(canvas, change, FEATHER).mask)
        assert 50 <= max(np.ptp(rows), np.ptp(columns)) <= 150, label
        assert rows.mean() == pytest.approx(300, abs=40), label
        assert columns.mean() == pytest.approx(400, abs=40), label


def test_paint_stays_in_the_mask_of_the_user() -> None:
    canvas = metal((300, 300))
    region = np.zeros((300, 300), bool)
    region[100:160, 50:130] = True
    for label in ("patches", "scratch", "pitted_surface"):
        spot = Spot(nothing_taken(canvas), mask=region)
        change = paint_defect(canvas, label, spot, np.random.default_rng(1), FEATHER)
        assert change is not None
        found = apply_change(canvas, change, FEATHER)
        changed = found.photograph.pixels != canvas.pixels
        assert not (changed & (ndimage.distance_transform_edt(~region) >= FEATHER)).any(), label


def test_paint_on_dark_metal_does_not_clip_to_black() -> None:
    canvas = metal((300, 300), level=40)
    spot = Spot(nothing_taken(canvas))
    change = paint_defect(canvas, "patches", spot, np.random.default_rng(0), FEATHER)
    assert change is not None
    assert (apply_change(canvas, change, FEATHER).photograph.pixels == 0).mean() < 0.001


def test_a_class_that_nobody_can_paint_is_named() -> None:
    canvas = metal((300, 300))
    with pytest.raises(
        UserError, match=r"no procedural defect is called 'moth': there are crazing, .*--method"
    ):
        paint_defect(canvas, "moth", Spot(nothing_taken(canvas)), np.random.default_rng(0), FEATHER)


def test_a_small_defect_in_a_large_photograph_is_drawn_in_a_window_of_its_size(tmp_path: Path) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    painter = load_painter(tmp_path / "vq", tmp_path / "maskgit")
    canvas = metal((500, 700, 3))
    spot = Spot(nothing_taken(canvas), centre=(200, 300), size=40)
    change = draw_defect(
        canvas, painter, "patches", spot, np.random.default_rng(0), SamplingConfig(steps=2), [], FEATHER
    )
    assert change is not None
    assert change.details["window"] == 128
    assert 136 <= change.window[0].start < change.window[0].stop <= 264
    found = apply_change(canvas, change, FEATHER)
    far = ndimage.distance_transform_edt(~found.mask) >= FEATHER if found.visible else ~found.mask
    assert np.array_equal(found.photograph.pixels[far], canvas.pixels[far])
    with pytest.raises(UserError, match="unknown class 'dent'"):
        draw_defect(
            canvas, painter, "dent", spot, np.random.default_rng(0), SamplingConfig(steps=2), [], FEATHER
        )


def test_the_candidate_that_fills_the_brush_best_is_kept_with_its_guidance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None fills it, so all tries are used; the last candidate of the first try fills it best."""
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    painter = load_painter(tmp_path / "vq", tmp_path / "maskgit")
    canvas = metal((200, 200))
    used = []

    def draw_into(
        _: object, prepared: Prepared, labels: Sequence[str], config: SamplingConfig, *rest: object
    ) -> list[Inpainted]:
        used.append(config.guidance)
        found = []
        for number in range(len(labels)):
            changed = np.zeros(prepared.images[0].shape[:2], bool)
            rows, columns = np.nonzero(prepared.masks[0])
            kept = 2 + number if len(used) == 1 else 1
            changed[rows[:kept], columns[:kept]] = True
            found.append(Inpainted(prepared.images[0] + np.uint8(kept), prepared.images[0], changed))
        return found

    monkeypatch.setattr(drawn_insertion, "draw_into", draw_into)
    spot = Spot(nothing_taken(canvas), centre=(100, 100), size=40)
    sampling = SamplingConfig(steps=2, guidance=1.5)
    change = draw_defect(canvas, painter, "patches", spot, np.random.default_rng(0), sampling, [], FEATHER)
    assert used == [1.5, 3.5]
    assert change is not None
    assert change.details["guidance"] == 1.5
    assert np.median(change.added) == 1 + drawn_insertion.CANDIDATES


def test_agreement_with_the_brush_counts_what_lies_outside_it_too() -> None:
    brush, changed = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    brush[:4, :5] = True
    changed[2:6, :5] = True
    image = np.zeros((10, 10), np.uint8)
    assert Inpainted(image, image, changed).fills(brush) == 10 / 30
