"""Defects drawn into images: what may change and what may not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from metaldefect.errors import UserError
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.exemplars import Exemplars
from metaldefect.synthesis.grain import BANDS, Grain
from metaldefect.synthesis.inpainting import (
    cells_under,
    composite,
    feathered,
    inpaint,
    visible_change,
)
from metaldefect.synthesis.insertion import Canvas, draw_insertions, plan_insertions
from metaldefect.synthesis.mask_makers import blob, cut_sides, make_mask, moved, stroke
from metaldefect.synthesis.painter import Painter
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.fields import plane_of
from metaldefect.tokenizer.model import VQModel
from tests.tiny_models import TINY_TOKENIZER


@pytest.fixture(scope="module")
def painter() -> Painter:
    torch.manual_seed(0)
    tokenizer = VQModel(
        VQConfig(
            channels=32, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, z_channels=32,
            codebook_size=32, stem=4,
        )
    ).eval()  # fmt: skip
    maskgit = MaskGIT(MaskGITConfig(dim=32, depth=1, heads=2, classes=2, codebook_size=20, grid=8)).eval()
    vocabulary = Vocabulary.of(np.arange(20), tokenizer.quantize.codebook.detach())
    return Painter(tokenizer, maskgit, ("scratches", "patches"), vocabulary, 64)


def run(painter: Painter, image: np.ndarray, mask: np.ndarray, label: str = "patches") -> np.ndarray:
    generators = [image_generator(0)]
    return inpaint(painter, [image], [mask], [label], SamplingConfig(steps=3), generators, 4.0)[0].image


def two_generators() -> list[torch.Generator]:
    return [image_generator(1, number) for number in range(2)]


def test_outside_the_feather_not_a_byte_changes(painter: Painter) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64)).astype(np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[20:36, 24:40] = True
    result = run(painter, image, mask)
    outside = feathered(mask, 4.0) == 0
    assert outside.sum() > 2500
    assert np.array_equal(result[outside], image[outside])
    assert not np.array_equal(result[mask], image[mask])


def test_images_of_another_size_than_the_models(painter: Painter) -> None:
    image = np.full((100, 100), 120, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[40:60, 40:60] = True
    assert run(painter, image, mask).shape == (100, 100)


def test_feather_is_whole_on_the_mask_and_falls_over_its_width_outside() -> None:
    mask = np.zeros((30, 30), bool)
    mask[10:20, 10:20] = True
    alpha = feathered(mask, 3.0)
    # Distances to the mask: 3, 2 and 1 pixels outside, then inside
    shares = [0, 1 / 3, 2 / 3, 1, 1]
    assert alpha[15, 7:12].tolist() == pytest.approx([s * s * (3 - 2 * s) for s in shares])
    assert (alpha[:7] == 0).all()


def test_all_of_a_narrow_defect_arrives() -> None:
    image = np.full((40, 40), 100, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[20:23, 5:35] = True
    drawn = image.copy()
    drawn[mask] = 30
    assert (composite(image, drawn, image, mask, 8.0)[mask] == 30).all()


def test_composite_of_an_image_with_itself_at_another_level_is_the_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(80, 120, (48, 48)).astype(np.uint8)
    mask = np.zeros((48, 48), bool)
    mask[16:30, 16:30] = True
    # The drawn region is the same texture 30 levels brighter: grey matching must take that away
    shifted = image + 30
    result = composite(image, shifted, image, mask, 4.0)
    assert np.abs(result.astype(int) - image.astype(int)).max() <= 1


def test_unchanged_tokens_change_no_pixel_however_rough_the_tokenizer() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 48)).astype(np.uint8)
    mask = np.zeros((48, 48), bool)
    mask[16:30, 16:30] = True
    rough = rng.integers(0, 256, (48, 48)).astype(np.uint8)
    assert np.array_equal(composite(image, rough, rough, mask, 4.0), image)


def test_rendered_images_are_decoded_ones_with_grain(painter: Painter) -> None:
    tokens = torch.randint(20, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(painter.render(tokens, None, two_generators()), painter.decode(tokens))
    grain = Grain(torch.full((32, BANDS), 5.0), torch.ones(1, BANDS), torch.ones(1, 32))
    grainy = replace(painter, grain=grain)
    rendered = grainy.render(tokens, None, two_generators())
    assert np.array_equal(rendered, grainy.render(tokens, None, two_generators()))
    difference = rendered.astype(float) - painter.decode(tokens)
    assert difference.std() > 5.0
    assert abs(difference.mean()) < 3.0


def test_the_light_of_a_drawn_image_is_a_plane_without_the_defects_of_its_source() -> None:
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    slope = (0.3 + 0.1 * rows - 0.05 * columns).expand(2, 3, 4, 4)
    torch.testing.assert_close(plane_of(slope), slope)
    spot = torch.zeros(1, 1, 4, 4)
    spot[0, 0, 1:3, 1:3] = -1.0  # in the middle: it changes the mean only
    torch.testing.assert_close(plane_of(spot), torch.full((1, 1, 4, 4), -0.25))


def test_drawn_images_get_the_light_of_their_own_class() -> None:
    torch.manual_seed(0)
    lit = TINY_TOKENIZER.replace(field=2)
    maskgit = MaskGIT(MaskGITConfig(dim=32, depth=1, heads=2, classes=2, codebook_size=32, grid=8)).eval()
    fields = {"dark": torch.full((3, 3, 2, 2), -0.5), "bright": torch.full((1, 3, 2, 2), 0.5)}
    painter = Painter(
        VQModel(lit).eval(), maskgit, ("dark", "bright"), Vocabulary.full(32), 64, fields=fields
    )
    images = painter.sample(torch.tensor([0, 1]), [0, 0], SamplingConfig(steps=2), seed=0)
    assert images[1].mean() - images[0].mean() == pytest.approx(127.5, abs=15)


def test_cells_round_outward() -> None:
    mask = np.zeros((64, 64), bool)
    mask[7:9, 8] = True
    cells = cells_under(mask, 8)
    assert np.argwhere(cells).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((64, 64), bool), "mask is empty"),
        (np.ones((64, 64), bool), "covers the whole image"),
        (np.ones((32, 64), bool), r"mask has shape \(32, 64\)"),
    ],
)
def test_bad_masks(painter: Painter, mask: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(painter, np.zeros((64, 64), np.uint8), mask)


def test_unknown_class_is_named(painter: Painter) -> None:
    mask = np.zeros((64, 64), bool)
    mask[1] = True
    with pytest.raises(UserError, match="unknown class 'rust': there are scratches, patches"):
        run(painter, np.zeros((64, 64), np.uint8), mask, "rust")


def test_vocabulary_maps_used_codes_to_themselves_and_others_to_the_nearest() -> None:
    codebook = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [-1.0, 0.2]]), dim=1
    )
    vocabulary = Vocabulary.of(np.array([[0, 1], [3, 0]]), codebook)
    assert vocabulary.codes.tolist() == [0, 1, 3]
    assert vocabulary.nearest.tolist() == [0, 1, 0, 2]


def test_made_masks_have_a_sensible_size_and_depend_on_the_seed() -> None:
    real = np.zeros((200, 200), bool)
    real[50:90, 100:110] = True
    for seed in range(20):
        mask = make_mask(np.random.default_rng(seed), 256, [real])
        assert 40 <= mask.sum() <= 0.25 * 256**2
    first, again = (make_mask(np.random.default_rng(3), 128, []) for _ in range(2))
    assert np.array_equal(first, again)


def test_a_moved_mask_keeps_its_kind_of_shape() -> None:
    real = np.zeros((200, 200), bool)
    real[50:130, 100:110] = True
    for seed in range(10):
        rows, columns = np.where(moved(real, np.random.default_rng(seed), 200))
        extent = sorted([int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1])
        assert 5.0 <= extent[1] / extent[0] <= 12.0


def test_a_mask_that_its_photographs_border_cuts_off_stays_at_the_border() -> None:
    cut = np.zeros((200, 200), bool)
    cut[150:, 100:110] = True
    for seed in range(10):
        mask = moved(cut, np.random.default_rng(seed), 128)
        assert sum(cut_sides(mask)) == 1
        assert not mask.all(axis=0).any()
        assert not mask.all(axis=1).any()


def test_a_mask_that_runs_through_its_photograph_runs_through_the_window() -> None:
    through = np.zeros((200, 200), bool)
    through[:, 60:70] = True
    for seed in range(10):
        mask = moved(through, np.random.default_rng(seed), 128)
        assert mask.all(axis=0).any() != mask.all(axis=1).any()


def test_windows_with_cut_masks_lie_at_that_border_of_the_canvas() -> None:
    corner = np.zeros((64, 64), bool)
    corner[:10, :12] = True
    canvases = [Canvas(name, name, np.zeros((200, 300), np.uint8)) for name in "ab"]
    for job in plan_insertions(["pits"], 12, 0, canvases, {"pits": [corner]}, {"pits": 64}):
        assert cut_sides(job.mask) == cut_sides(job.mask[job.window])
    free = np.zeros((64, 64), bool)
    free[20:30, 20:32] = True
    windows = [
        job.window
        for job in plan_insertions(["pits"], 12, 0, canvases, {"pits": [free]}, {"pits": 64})
        if not any(cut_sides(job.mask[job.window]))
    ]
    assert len({(rows.start, columns.start) for rows, columns in windows}) == len(windows) > 6


@pytest.mark.parametrize("maker", [stroke, blob])
def test_strokes_and_blobs_are_not_empty(maker) -> None:
    for seed in range(10):
        assert maker(np.random.default_rng(seed), 128).sum() > 20


def test_visible_change_is_the_changed_region_and_neither_grain_nor_specks() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(100, 130, (64, 64)).astype(np.uint8)
    after = before.astype(int)
    after[20:34, 10:40] -= 40
    after[50, 50] += 60  # a single pixel
    after[:, 60:] += rng.integers(-6, 7, (64, 4))  # grain
    changed = visible_change(before, after.clip(0, 255).astype(np.uint8))
    truth = np.zeros((64, 64), bool)
    truth[20:34, 10:40] = True
    assert (changed & truth).sum() / (changed | truth).sum() > 0.8
    assert not visible_change(before, before).any()


def test_rough_metal_hides_what_smooth_metal_shows() -> None:
    rng = np.random.default_rng(0)
    smooth = np.full((128, 128), 120.0)
    rough = smooth + ndimage.gaussian_filter(rng.normal(size=(128, 128)), 1.5) * 150  # deviation about 28
    faint, dent = np.zeros((128, 128)), np.zeros((128, 128))
    faint[60:64, 30:90] = -25.0
    dent[40:90, 40:90] = -60.0

    def seen(metal: np.ndarray, change: np.ndarray) -> np.ndarray:
        return visible_change(
            metal.clip(0, 255).astype(np.uint8), (metal + change).clip(0, 255).astype(np.uint8)
        )

    assert seen(smooth, faint)[60:64, 35:85].all()
    assert not seen(rough, faint).any()
    overlap = seen(rough, dent) & (dent < 0)
    assert overlap.sum() > 0.8 * (dent < 0).sum()


def test_parts_of_an_insertion(painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", "float32")  # untrained, it draws something else in bf16
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64)).astype(np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[20:36, 24:40] = True
    config = SamplingConfig(steps=3)
    (found,) = inpaint(painter, [image], [mask], ["patches"], config, [image_generator(0)], 4.0)
    assert np.array_equal(found.image, run(painter, image, mask))
    assert np.array_equal(found.pasted[~mask], image[~mask])
    assert not np.array_equal(found.pasted[mask], found.image[mask])
    assert found.changed.any()
    # Blurred, a change reaches a few pixels over the feather
    assert not (found.changed & (feathered(mask, 10.0) == 0)).any()


@pytest.mark.parametrize(
    ("precision", "expected"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_drawing_multiplies_in_the_machines_precision(
    painter: Painter, monkeypatch: pytest.MonkeyPatch, precision: str, expected: torch.dtype
) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", precision)
    seen: list[torch.dtype] = []
    layer = painter.maskgit.transformer.layers[0].ff.w1
    hook = layer.register_forward_hook(lambda _module, given, made: seen.append(made.dtype))
    try:
        tokens = painter.draw_tokens(torch.tensor([0, 1]), SamplingConfig(steps=3), two_generators())
    finally:
        hook.remove()
    assert set(seen) == {expected}
    assert tokens.shape == (2, 8, 8)


def test_tokens_outside_the_vocabulary_are_named(painter: Painter) -> None:
    with pytest.raises(ValueError, match=r"tokens lie in \[0, 20\], the vocabulary has 20"):
        painter.decode(torch.tensor([[[0, 20]]]))


def test_a_full_vocabulary_is_the_codebook() -> None:
    vocabulary = Vocabulary.full(4)
    assert vocabulary.codes.tolist() == vocabulary.nearest.tolist() == [0, 1, 2, 3]


def test_image_k_of_a_class_depends_on_seed_class_and_k_alone(painter: Painter) -> None:
    grain = Grain(torch.full((32, BANDS), 5.0), torch.ones(1, BANDS), torch.ones(1, 32))
    grainy, config = replace(painter, grain=grain), SamplingConfig(steps=3)
    together = grainy.sample(torch.tensor([0, 0, 1, 1]), [0, 1, 0, 1], config, seed=3)
    (alone,) = grainy.sample(torch.tensor([1]), [1], config, seed=3)
    assert np.abs(alone.astype(int) - together[3]).max() <= 1
    (other,) = grainy.sample(torch.tensor([1]), [1], config, seed=4)
    for different in (*together[:3], other):
        assert np.abs(alone.astype(int) - different).max() > 10


def test_an_insertion_does_not_depend_on_the_insertions_beside_it(painter: Painter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    jobs = plan_insertions(painter.classes, 2, 0, [Canvas("a", "a", image), Canvas("b", "b", image.T)], {})
    config = SamplingConfig(steps=3)
    whole = draw_insertions(painter, jobs, config, 7, 4.0, batch_size=4, attempts=2)
    cut = draw_insertions(painter, jobs[::-1], config, 7, 4.0, batch_size=3, attempts=2)[::-1]
    for one, other in zip(whole, cut, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
    (again,) = draw_insertions(painter, jobs[:1], config, 8, 4.0, batch_size=1, attempts=2)
    assert np.abs(again.image.astype(int) - whole[0].image).max() > 10


def test_a_defect_in_a_colour_canvas_keeps_the_metals_hue(painter: Painter) -> None:
    level = np.random.default_rng(0).integers(80, 120, (64, 96, 1))
    copper = np.rint(level * np.array([1.5, 1.0, 0.7])).astype(np.uint8)
    grey = np.asarray(Image.fromarray(copper).convert("L"))
    canvases = [Canvas("a", "a", copper), Canvas("b", "b", copper)]
    jobs = plan_insertions(painter.classes[:1], 1, 0, canvases, {})
    (drawn,) = draw_insertions(painter, jobs, SamplingConfig(steps=3), 7, 4.0, batch_size=1, attempts=1)
    in_grey = [job._replace(canvas=job.canvas._replace(image=grey)) for job in jobs]
    (plain,) = draw_insertions(painter, in_grey, SamplingConfig(steps=3), 7, 4.0, batch_size=1, attempts=1)
    assert drawn.image.shape == (64, 96, 3)
    np.testing.assert_array_equal(drawn.mask, plain.mask)
    untouched = plain.image == grey
    assert untouched.any()
    assert not untouched.all()
    np.testing.assert_array_equal(drawn.image[untouched], copper[untouched])
    lit = drawn.image[~untouched & (plain.image > 40) & (plain.image < 160)].astype(float)
    assert (lit[:, 0] > lit[:, 1]).all()
    assert (lit[:, 1] > lit[:, 2]).all()


def test_a_drawn_defect_has_the_detail_of_the_exemplars_of_its_class(painter: Painter) -> None:
    rng = np.random.default_rng(0)
    stripes = np.zeros((3, 64, 64), np.uint8) + np.where(np.arange(64) % 16 < 8, 60, 180).astype(np.uint8)
    flat = np.full((3, 64, 64), 120, np.uint8)
    parts = (
        np.concatenate([stripes, flat]),
        np.zeros((6, 8, 8), np.int64),
        ["patches"] * 3 + ["scratches"] * 3,
    )
    smooth = np.full((6, 64, 64), 120, np.float32)
    exemplars = Exemplars.of(parts[0], smooth, torch.zeros(6, 3, 0, 0), parts[1], parts[2], 32)
    image = rng.integers(110, 130, (64, 64)).astype(np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    drawn = run(replace(painter, exemplars=exemplars), image, mask, "patches")
    inside = drawn[24:40, 24:40].astype(float)
    columns = inside.mean(axis=0)
    assert columns.max() - columns.min() == pytest.approx(120, abs=20)  # the stripes, not the metal's noise
    assert inside.std(axis=0).max() < 3
    plain = run(replace(painter, exemplars=exemplars), image, mask, "scratches")
    np.testing.assert_array_equal(plain, image)  # flat metal in the place of flat metal is no defect
    np.testing.assert_array_equal(drawn[:10], image[:10])


def test_grain_in_the_place_of_other_grain_is_no_defect_and_is_not_swapped(painter: Painter) -> None:
    rng = np.random.default_rng(0)
    metal = np.clip(rng.normal(120, 30, (4, 64, 64)), 0, 255).astype(np.uint8)
    codes, smooth = np.zeros((3, 8, 8), np.int64), np.full((3, 64, 64), 120, np.float32)
    exemplars = Exemplars.of(metal[:3], smooth, torch.zeros(3, 3, 0, 0), codes, ["patches"] * 3, 32)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    generators = [image_generator(0)]
    (found,) = inpaint(
        replace(painter, exemplars=exemplars), [metal[3]], [mask], ["patches"], SamplingConfig(steps=3),
        generators, 4.0,
    )  # fmt: skip
    assert (found.pasted != metal[3])[mask].mean() > 0.9  # other grain was drawn
    assert found.changed.mean() < 0.01
    assert (found.image != metal[3])[mask].mean() < 0.1
