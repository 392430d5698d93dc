"""Drawing and inserting in colour: the metal keeps its hue, and nothing changes away from a mask."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from metaldefect.backbones import pooled_features
from metaldefect.commands.draw import draw
from metaldefect.commands.insert import insert
from metaldefect.commands.insert_settings import DrawSettings, InsertSettings
from metaldefect.images import as_channels, write_png
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.metrics.judge import JudgeNetwork, planes, standardise, symmetry
from metaldefect.metrics.seams import border_gradient
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.exemplars import guide_of
from metaldefect.synthesis.figures import unmasking
from metaldefect.synthesis.grain import Grain, add_grain
from metaldefect.synthesis.inpainting import composite, feathered, inpaint, visible_change
from metaldefect.synthesis.insertion import Canvas, draw_insertions, plan_insertions, write_insertions
from metaldefect.synthesis.painter import Painter, load_painter
from tests.coloured import BROWN, CLASSES, RED, plates, save_coloured_painter

SAMPLING = SamplingConfig(steps=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that draw brown metal and red blotches in `all`, and those without the red in `brown`."""
    root = tmp_path_factory.mktemp("coloured")
    save_coloured_painter(root / "all/vq", root / "all/maskgit")
    save_coloured_painter(root / "brown/vq", root / "brown/maskgit", red=False)
    return root


@pytest.fixture(scope="module")
def painter(folders: Path) -> Painter:
    return load_painter(folders / "all/vq", folders / "all/maskgit")


@pytest.fixture(scope="module")
def brown(folders: Path) -> Painter:
    return load_painter(folders / "brown/vq", folders / "brown/maskgit")


def square() -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[20:44, 20:44] = True
    return mask


def test_inserted_metal_keeps_its_colour_and_the_rest_every_byte(brown: Painter) -> None:
    images, _ = plates(1, seed=20, red=False)
    plain = replace(brown, exemplars=None)
    found = inpaint(plain, [images[0]], [square()], ["dent"], SAMPLING, [image_generator(0)], 4.0)[0]
    outside = feathered(square(), 4.0) == 0
    assert outside.sum() > 2000
    np.testing.assert_array_equal(found.image[outside], images[0][outside])
    assert (found.image[square()] != images[0][square()]).any()
    mean = found.image[square()].mean(axis=0)
    np.testing.assert_allclose(mean - mean.mean(), BROWN - BROWN.mean(), atol=6)
    assert found.changed.shape == (64, 64)


def test_a_defect_of_another_hue_shows_in_its_hue(painter: Painter) -> None:
    images, blotches = plates(1, seed=9)
    plain, _ = plates(1, seed=9, red=False)
    mask = blotches[0]
    red = painter.decode(painter.encode(images), painter.field_of(plain))[0]
    none = painter.decode(painter.encode(plain), painter.field_of(plain))[0]
    result = composite(plain[0], red, none, mask, 4.0)
    inner = feathered(mask, 4.0) == 1
    change = (result[inner].astype(float) - plain[0][inner]).mean(axis=0)
    assert change[0] > 15
    assert change[1] < -25
    assert visible_change(plain[0], result)[inner].mean() > 0.9


def test_compositing_grey_metal_in_colour_gives_the_grey_result() -> None:
    rng = np.random.default_rng(0)
    image, drawn, again = rng.integers(0, 256, (3, 64, 64), dtype=np.uint8)
    expected = composite(image, drawn, again, square(), 4.0).astype(int)
    whole = composite(*(as_channels(part, 3) for part in (image, drawn, again)), square(), 4.0)
    assert np.abs(whole - expected[..., None]).max() <= 1


def test_a_defect_that_crosses_the_brush_does_not_tint_the_metal_beside_it() -> None:
    metal = np.broadcast_to(BROWN.astype(np.uint8), (64, 64, 3))
    drawn = metal.copy()
    drawn[20:32, 36:64] = RED  # leaves the brush to the right
    result = composite(metal, drawn, metal, square(), 4.0).astype(int)
    beside = result[36:42, 22:32].mean(axis=(0, 1))
    np.testing.assert_allclose(beside - beside.mean(), BROWN - BROWN.mean(), atol=1)


def test_a_change_of_hue_alone_is_visible() -> None:
    before = np.full((64, 64, 3), 120, np.uint8)
    after = before.copy()
    after[20:44, 20:44] = (150, 110, 92)  # the same luminance within a level
    assert visible_change(before, after)[25:40, 25:40].all()
    grey = [as_channels(image, 1) for image in (before, after)]
    assert not visible_change(*grey).any()


def test_whole_images_are_drawn_in_the_metal_s_colour(brown: Painter) -> None:
    drawn = brown.sample(torch.tensor([0, 1]), [0, 0], SAMPLING, seed=0)
    assert drawn.shape == (2, 64, 64, 3)
    for image in drawn:
        mean = image.mean(axis=(0, 1))
        np.testing.assert_allclose(mean - mean.mean(), BROWN - BROWN.mean(), atol=6)


def test_grain_changes_all_channels_alike(painter: Painter) -> None:
    assert painter.grain is not None
    levels = np.full((1, 64, 64, 3), 100, np.float32)
    codes = painter.tokenizer.encode(torch.zeros(1, 3, 64, 64))
    noise = painter.grain.draw(codes, 64, [image_generator(0)])
    grained = add_grain(levels, noise)
    np.testing.assert_array_equal(grained[..., 0], grained[..., 2])
    assert grained.std() > 0
    images, again = plates(2)[0], np.repeat(plates(2)[0].mean(axis=3, keepdims=True), 3, axis=3)
    fitted = Grain.fit(images, again.astype(np.float32), np.zeros((2, 8, 8), np.int64), 1)
    assert float(fitted.deviation.max()) < 0.1, "what only hue leaves out is no grain"


def test_pieces_are_compared_by_their_hue() -> None:
    grey = torch.full((1, 64, 64, 3), 100.0)
    red = grey.clone()
    red[..., 0] += 40
    red[..., 1:] -= 20
    assert guide_of(red).levels.shape == (1, 3, 16, 16)
    assert (guide_of(red).levels - guide_of(grey).levels).abs().min() == 20


def test_insertions_into_grey_and_coloured_canvases_are_written_in_colour(
    painter: Painter, tmp_path: Path
) -> None:
    images, _ = plates(4, seed=30, red=False)
    canvases = [Canvas(str(k), f"scene {k}", image) for k, image in enumerate(images)]
    canvases += [Canvas(f"grey {k}", f"grey {k}", as_channels(image, 1)) for k, image in enumerate(images)]
    jobs = plan_insertions(CLASSES, 4, 1, canvases, {})
    drawn = draw_insertions(painter, jobs, SAMPLING, 0, 4.0, 8, 1)
    for job, found in zip(jobs, drawn, strict=True):
        before = as_channels(job.canvas.image, 3)
        outside = feathered(job.mask, 4.0) == 0
        np.testing.assert_array_equal(found.image[outside], before[outside])
    folder = tmp_path / "inserted"
    folder.mkdir()
    counts = write_insertions(folder, jobs, drawn)
    with (folder / "insertions.csv").open(newline="") as stream:
        paths = [row["path"] for row in csv.DictReader(stream) if row["path"]]
    assert len(paths) == counts["validation"] + counts["test"] > 0
    assert {Image.open(folder / path).mode for path in paths} == {"RGB"}


def test_draw_writes_files_of_three_channels(folders: Path, tmp_path: Path) -> None:
    settings = DrawSettings(
        label=("rust",), output=tmp_path / "drawn", count=2, steps=2,
        tokenizer=folders / "all/vq", maskgit=folders / "all/maskgit",
    )  # fmt: skip
    draw(settings)
    files = sorted((tmp_path / "drawn/images/rust").glob("*.png"))
    assert [(Image.open(file).mode, Image.open(file).size) for file in files] == [("RGB", (64, 64))] * 2


@pytest.mark.parametrize("colour", [True, False])
def test_insert_draws_into_photographs_of_either_kind(folders: Path, tmp_path: Path, colour: bool) -> None:
    plate = plates(1, seed=40, red=False)[0][0]
    large = np.asarray(Image.fromarray(plate).resize((160, 130), Image.Resampling.BICUBIC))
    write_png(tmp_path / "normal/a.png", large if colour else as_channels(large, 1))
    settings = InsertSettings(
        images=tmp_path / "normal", output=tmp_path / "made", label=("rust",), method="drawn", format="coco",
        steps=2, tokenizer=folders / "all/vq", maskgit=folders / "all/maskgit", attempts=3,
    )  # fmt: skip
    assert insert(settings).images == 1
    with (tmp_path / "made/manifest.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    made = Image.open(tmp_path / "made" / row["image"])
    before = Image.open(row["canvas"])
    assert made.mode == before.mode == ("RGB" if colour else "L")
    mask = np.asarray(Image.open(tmp_path / "made" / row["mask"])) > 0
    far = ndimage.distance_transform_edt(~mask) > settings.feather
    np.testing.assert_array_equal(np.asarray(made)[far], np.asarray(before)[far])


def test_features_tell_hues_apart_and_take_grey_as_equal_channels() -> None:
    images, _ = plates(2, seed=50)
    grey = np.stack([as_channels(image, 1) for image in images])
    three = np.stack([as_channels(image, 3) for image in grey])
    np.testing.assert_allclose(pooled_features(three), pooled_features(grey), atol=1e-4)
    assert np.abs(pooled_features(images) - pooled_features(grey)).max() > 0.1


def test_the_judge_sees_each_channel_without_its_brightness() -> None:
    pixels = planes(plates(2, seed=60)[0])
    assert pixels.shape == (2, 3, 64, 64)
    views = standardise(pixels)
    assert views.shape == (2, 6, 64, 64)
    assert views.mean(dim=(2, 3)).abs().max() < 1e-3
    torch.testing.assert_close(standardise(symmetry(pixels, 3)), symmetry(views, 3))
    assert JudgeNetwork(4, 3)(pixels).shape == (2, 4)


def test_seams_are_measured_in_luminance() -> None:
    image = plates(1, seed=70)[0][0]
    assert border_gradient(image, square()) == border_gradient(as_channels(image, 1), square())


def test_figures_show_colours(painter: Painter) -> None:
    figure = unmasking(painter, SAMPLING, seed=0)
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]
    assert {image.shape for image in shown} == {(64, 64, 3)}
