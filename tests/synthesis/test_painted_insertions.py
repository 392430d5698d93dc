"""Procedural and drawn defects in photographs of any size: in a window of their own, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from metaldefect.errors import UserError
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis import drawn_insertion, inpainting, insertion
from metaldefect.synthesis.change import apply_change
from metaldefect.synthesis.drawn_insertion import draw_defect
from metaldefect.synthesis.inpainting import Inpainted, Prepared
from metaldefect.synthesis.painter import load_painter
from metaldefect.synthesis.photographs import Photograph, as_photograph
from metaldefect.synthesis.placement import Spot
from metaldefect.synthesis.procedural_insertion import PAINTERS, paint_defect
from metaldefect.synthesis.slant import slant, turned
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


def leaning_bar(degrees: float, length: float = 60.0) -> np.ndarray:
    """A bar 6 px wide in `bool [200, 200]`; `degrees` from level, clockwise."""
    rows, columns = np.mgrid[:200, :200] - 100.0
    angle = np.radians(degrees)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    return (np.abs(along) <= length / 2) & (np.abs(across) <= 3)


def dark_defects(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Let all that is drawn be the mask, 60 levels darker; returns the masks as they come."""
    shown = []

    def composite(
        image: np.ndarray, _drawn: object, _without: object, mask: np.ndarray, _: float
    ) -> np.ndarray:
        shown.append(mask)
        return (image - np.uint8(60) * mask).astype(np.uint8)

    monkeypatch.setattr(inpainting, "composite", composite)
    return shown


@pytest.mark.parametrize(
    ("degrees", "leans"), [(30, 30), (-35, -35), (60, -30), (4, 0), (90, 0), (84, 0), (0, 0)]
)
def test_a_long_brush_is_drawn_upright_or_level_and_turned_back(
    degrees: float, leans: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    painter = load_painter(tmp_path / "vq", tmp_path / "maskgit")
    canvas, brush = metal((200, 200)), leaning_bar(degrees)
    shown = dark_defects(monkeypatch)
    change = draw_defect(
        canvas, painter, "patches", Spot(nothing_taken(canvas), mask=brush), np.random.default_rng(0),
        SamplingConfig(steps=2), [], FEATHER,
    )  # fmt: skip
    assert change is not None
    assert change.details["slant"] == pytest.approx(leans, abs=1.5)
    height, width = (np.ptp(places) for places in np.nonzero(shown[0]))
    assert min(height, width) <= (8 if leans else 16)
    assert max(height, width) == pytest.approx(60, abs=3)
    added, wanted = change.added[..., 0] < -30, brush[change.window]
    assert (added & wanted).sum() > 0.85 * (added | wanted).sum()
    assert np.abs(change.added[ndimage.distance_transform_edt(~wanted) > 4]).max() < 1e-3


def test_planned_insertions_are_drawn_along_slanted_brushes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_painter(tmp_path / "vq", tmp_path / "maskgit")
    painter = load_painter(tmp_path / "vq", tmp_path / "maskgit")
    image = metal((200, 200)).pixels.astype(np.uint8)
    window = (slice(0, 200), slice(0, 200))
    jobs = [
        insertion.Insertion("patches", number, "test", insertion.Canvas("a", "a", image), window, brush)
        for number, brush in enumerate((leaning_bar(35), leaning_bar(90)))
    ]
    shown = dark_defects(monkeypatch)
    found = insertion.draw_insertions(painter, jobs, SamplingConfig(steps=2), 0, FEATHER, 2, attempts=1)
    assert min(np.ptp(places) for places in np.nonzero(shown[0])) <= 8
    assert np.array_equal(shown[1], jobs[1].mask)
    for job, drawn in zip(jobs, found, strict=True):
        changed = image.astype(int) - drawn.image > 30
        assert (changed & job.mask).sum() > 0.8 * (changed | job.mask).sum()
        visible = inpainting.visible_change(image, drawn.image)
        assert (drawn.mask & visible).sum() > 0.9 * (drawn.mask | visible).sum()
        far = ndimage.distance_transform_edt(~job.mask) > 4
        assert np.array_equal(drawn.image[far], image[far])


def test_a_round_brush_does_not_lean() -> None:
    rows, columns = np.mgrid[:80, :80] - 40.0
    assert slant(rows**2 + columns**2 < 400) == 0
    assert slant(leaning_bar(30, length=12)) == 0


def test_a_brush_that_a_turn_would_move_out_of_its_square_stays_as_it_lies() -> None:
    bar = leaning_bar(30)
    assert slant(bar[60:140, 60:140]) == pytest.approx(30, abs=1.5)
    assert slant(bar[80:200, 65:185]) == 0
    # One end leaves the square while a mirrored piece of the same size comes in
    rows, columns = np.mgrid[:100, :100]
    across, down = columns - 79.09, rows - 60.79
    angle = np.radians(57.38)
    along, beside = (
        across * np.cos(angle) + down * np.sin(angle),
        down * np.cos(angle) - across * np.sin(angle),
    )
    assert slant((np.abs(along) < 27.73) & (np.abs(beside) < 2.5)) == 0
    line = np.eye(60, dtype=bool) & (np.abs(np.arange(60) - 30) < 12)
    assert abs(slant(line)) == pytest.approx(45)
    assert turned(line, 45).any(axis=0).sum() >= 30


def test_agreement_with_the_brush_counts_what_lies_outside_it_too() -> None:
    brush, changed = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    brush[:4, :5] = True
    changed[2:6, :5] = True
    image = np.zeros((10, 10), np.uint8)
    assert Inpainted(image, image, changed).fills(brush) == 10 / 30
