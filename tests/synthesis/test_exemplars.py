"""Detail from training images: what is laid, where it comes from, and that seams do not show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.exemplars import (
    BLOCK,
    Exemplars,
    Guide,
    beyond_cut,
    descriptors,
    guide_of,
    mark_used,
    starts,
)
from metaldefect.synthesis.painter import Painter
from metaldefect.synthesis.residual import measure_detail
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.fields import light_levels
from metaldefect.tokenizer.model import VQModel

SIZE = 112  # blocks of 48 pixels every 32


def blurred(images: np.ndarray) -> np.ndarray:
    """What a tokenizer leaves: the images without their detail."""
    return np.stack([gaussian_filter(image.astype(np.float32), 3.0) for image in images])


def exemplars_of(images: np.ndarray, codes: np.ndarray | None = None, fields: int = 0) -> Exemplars:
    codes = np.zeros((len(images), 6, 6), np.int64) if codes is None else codes
    light = torch.zeros(len(images), 3, fields, fields)
    return Exemplars.of(images, blurred(images), light, codes, ["pits"] * len(images), 4)


def lay(
    exemplars: Exemplars,
    decoded: np.ndarray,
    codes: np.ndarray | None = None,
    seed: int = 0,
    region: tuple[slice, slice] | None = None,
):
    codes = np.zeros((len(decoded), 6, 6), np.int64) if codes is None else codes
    generators = [image_generator(seed, number) for number in range(len(decoded))]
    return exemplars.detailed(
        "pits", decoded, torch.zeros(len(decoded), 3, 0, 0), torch.from_numpy(codes), generators, region
    )


def pitted(seed: int, count: int = 3) -> np.ndarray:
    """Bright noise with dark sharp squares, `uint8 [count, SIZE, SIZE]`."""
    rng = np.random.default_rng(seed)
    images = rng.normal(150, 8, (count, SIZE, SIZE))
    for image in images:
        for top, left in rng.integers(0, SIZE - 6, (25, 2)):
            image[top : top + 6, left : left + 6] -= 80
    return images.clip(0, 255).astype(np.uint8)


def test_only_the_blocks_over_a_region_are_laid() -> None:
    images = pitted(0)
    soft = blurred(images[:1])
    laid = lay(exemplars_of(images), soft, region=(slice(70, 90), slice(60, 100)))
    # Blocks start at 0, 32 and 64: only those from 32 on touch the region
    assert np.abs(laid - images[0])[0, 32:, 32:].mean() < 3.0
    assert np.array_equal(laid[0, :32], soft[0, :32])
    assert np.array_equal(laid[0, :, :32], soft[0, :, :32])
    everywhere = lay(exemplars_of(images), soft, region=(slice(0, SIZE), slice(0, SIZE)))
    assert np.array_equal(everywhere, lay(exemplars_of(images), soft))


def test_an_exemplar_comes_back_from_its_own_blurred_image() -> None:
    images = pitted(0)
    laid = lay(exemplars_of(images), blurred(images[:1]))
    assert laid.shape == (1, SIZE, SIZE)
    assert laid.dtype == np.float32
    # Blocks and pieces lie on one grid of 8 pixels, so each finds itself
    assert np.abs(laid[0] - images[0]).mean() < 3.0
    assert np.abs(blurred(images[:1])[0] - images[0]).mean() > 9.0


def test_detail_of_other_images_follows_the_decoded_tokens() -> None:
    wanted = pitted(9, 1)
    smooth = blurred(wanted)
    laid = lay(exemplars_of(pitted(1, 20)), smooth)

    def alike(decoded: np.ndarray) -> float:
        return float(np.corrcoef(blurred(laid)[0].ravel(), decoded[0].ravel())[0, 1])

    assert alike(smooth) > 0.35  # pits lie about where the tokens have them
    assert abs(alike(blurred(pitted(10, 1)))) < 0.15  # not where another image has them
    assert laid.std() == pytest.approx(wanted.std(), rel=0.2)  # and are as sharp as real ones
    assert smooth.std() < 0.6 * wanted.std()


def test_an_image_is_laid_from_the_exemplars_with_the_most_similar_codes() -> None:
    dark, bright = np.full((8, SIZE, SIZE), 60, np.uint8), np.full((8, SIZE, SIZE), 200, np.uint8)
    codes = np.repeat(np.array([1, 2]), 8)[:, None, None] * np.ones((1, 6, 6), np.int64)
    exemplars = exemplars_of(np.concatenate([dark, bright]), codes)
    decoded = np.full((2, SIZE, SIZE), 130, np.float32)
    laid = lay(exemplars, decoded, np.stack([codes[0], codes[-1]]))
    np.testing.assert_allclose(laid[0], 60)
    np.testing.assert_allclose(laid[1], 200)


def test_the_light_of_the_drawn_image_is_kept_and_that_of_exemplars_taken_off() -> None:
    ramp = np.linspace(60, 180, SIZE, dtype=np.float32)[None, None].repeat(SIZE, 1)
    images = np.rint(ramp).astype(np.uint8)
    field = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(ramp)[:, None] / 127.5 - 1, 4).repeat(
        1, 3, 1, 1
    )
    exemplars = Exemplars.of(images, ramp, field, np.zeros((1, 6, 6), np.int64), ["pits"], 4)
    other = torch.full((1, 3, 4, 4), 0.2)
    level = 1.2 * 127.5
    laid = exemplars.detailed(
        "pits", np.full((1, SIZE, SIZE), level, np.float32), other, torch.zeros(1, 6, 6, dtype=torch.int64),
        [image_generator(0)],
    )  # fmt: skip
    inside = laid[:, 12:-12, 12:-12]  # bicubic interpolation is flat beyond the outer cells' centres
    np.testing.assert_allclose(inside, level, atol=6.0)  # the ramp alone spans 120
    assert light_levels(torch.zeros(2, 3, 0, 0), 8).abs().max() == 0


def test_each_image_depends_on_its_own_generator_alone() -> None:
    exemplars = exemplars_of(pitted(2, 8))
    decoded = blurred(pitted(5, 2))
    both = lay(exemplars, decoded)
    alone = exemplars.detailed(
        "pits", decoded[1:], torch.zeros(1, 3, 0, 0), torch.zeros(1, 6, 6, dtype=torch.int64),
        [image_generator(0, 1)],
    )  # fmt: skip
    np.testing.assert_array_equal(both[1:], alone)
    assert not np.array_equal(both, lay(exemplars, decoded, seed=1))


def test_a_piece_is_not_repeated_in_an_image() -> None:
    # The decoded image is smooth, as one piece alone is
    images = np.random.default_rng(6).normal(128, 30, (1, SIZE, SIZE)).clip(0, 255).astype(np.uint8)
    images[0, 24:88, 24:88] = np.random.default_rng(7).normal(128, 1, (64, 64)).round()
    (laid,) = lay(exemplars_of(images), np.full((1, SIZE, SIZE), 128, np.float32))
    inner = {
        laid[top + 18 : top + 30, left + 18 : left + 30].tobytes()
        for top in starts(SIZE)
        for left in starts(SIZE)
    }
    assert len(inner) == len(starts(SIZE)) ** 2
    used = torch.zeros(1, 2, 9)
    mark_used(used, torch.tensor([9]))  # first piece of the second exemplar
    assert used[0, 0].max() == 0
    assert used.view(2, 3, 3)[1, 0, 0] > 1e5


def test_a_cut_runs_where_both_blocks_agree() -> None:
    error = torch.ones(1, 5, 4)
    path = [1, 2, 2, 3, 2]
    error[0, torch.arange(5), path] = 0
    new = beyond_cut(error)[0].numpy()
    for row, column in enumerate(path):
        np.testing.assert_array_equal(new[row], np.arange(4) >= column)


def test_pieces_are_numbered_as_they_are_cut() -> None:
    images = pitted(3, 2)
    exemplars = exemplars_of(images)
    library = exemplars.library("pits")
    across = (SIZE - BLOCK) // 8 + 1
    number = across * across + 2 * across + 3  # second image, third row, fourth column
    piece = library.cut(torch.tensor([number]))[0].numpy()
    np.testing.assert_array_equal(piece, images[1, 16 : 16 + BLOCK, 24 : 24 + BLOCK])
    own = descriptors(
        guide_of(torch.from_numpy(blurred(images))[1:, 16 : 16 + BLOCK, 24 : 24 + BLOCK]), BLOCK
    )
    # Kept in half precision
    np.testing.assert_allclose(library.pieces[1, 2 * across + 3], own[0, 0], atol=0.2)


def test_a_descriptor_tells_rough_from_smooth_at_equal_levels() -> None:
    side = BLOCK // 4
    smooth = Guide(torch.zeros(1, side, side), torch.zeros(1, side, side))
    rough = Guide(torch.zeros(1, side, side), torch.full((1, side, side), 9.0))
    distance = (descriptors(smooth, BLOCK) - descriptors(rough, BLOCK)).norm()
    assert float(distance) == pytest.approx(1.5 * side * 3.0)  # weight times the deviation


def test_blocks_cover_the_image_to_its_border() -> None:
    for size in (48, 64, 96, 256):
        covered = np.zeros(size, bool)
        for start in starts(size):
            covered[start : start + BLOCK] = True
        assert covered.all()
        assert starts(size)[-1] + BLOCK == size


def test_exemplars_survive_the_disk(tmp_path: Path) -> None:
    exemplars = exemplars_of(pitted(4), fields=2)
    exemplars.save(tmp_path)
    again = Exemplars.load(tmp_path)
    assert again is not None
    assert again.codebook == exemplars.codebook
    for kind, tensor in exemplars.parts["pits"].items():
        assert torch.equal(again.parts["pits"][kind], tensor)
    assert Exemplars.load(tmp_path / "none") is None


@pytest.fixture
def painter() -> Painter:
    torch.manual_seed(0)
    tokenizer = VQModel(
        VQConfig(
            channels=32, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, z_channels=32,
            codebook_size=32, stem=4, field=2,
        )
    ).eval()  # fmt: skip
    maskgit = MaskGIT(MaskGITConfig(dim=32, depth=1, heads=2, classes=2, codebook_size=32, grid=8)).eval()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 128, (8, 64, 64)).astype(np.uint8)
    images[4:] += 128  # scratches lie on brighter metal
    grain, exemplars = measure_detail(tokenizer, images, ["pits"] * 4 + ["scratches"] * 4)
    return Painter(tokenizer, maskgit, ("scratches", "pits"), Vocabulary.full(32), 64, grain, exemplars)


def test_drawn_images_are_laid_from_training_images_of_their_own_class(painter: Painter) -> None:
    assert painter.exemplars is not None
    labels = torch.tensor([0, 1, 0])
    drawn = painter.sample(labels, [0, 0, 1], SamplingConfig(steps=2), 0)
    alone = painter.sample(labels[1:2], [0], SamplingConfig(steps=2), 0)
    assert np.abs(drawn[1].astype(int) - alone[0]).max() <= 1
    assert drawn[[0, 2]].mean() > 128 > drawn[1].mean() + 30
    parts = painter.exemplars.parts
    assert float(drawn[1].std()) == pytest.approx(float(parts["pits"]["images"].float().std()), rel=0.15)
    fields = {name: part["fields"] for name, part in parts.items()}
    bare = replace(painter, exemplars=None, grain=None, fields=fields)
    assert bare.sample(labels[1:2], [0], SamplingConfig(steps=2), 0).std() < 0.8 * drawn[1].std()


def test_a_drawn_image_starts_from_a_few_tokens_of_one_training_image(painter: Painter) -> None:
    assert painter.exemplars is not None
    labels = torch.tensor([1, 0])
    known, fields = painter.anchored(
        painter.exemplars, labels, [image_generator(0, 0), image_generator(0, 1)]
    )
    hidden = painter.maskgit.config.mask_id
    for grid, name in zip(known, ("pits", "scratches"), strict=True):
        shown = grid != hidden
        assert int(shown.sum()) == min(6, grid.numel())
        assert any(
            torch.equal(grid[shown], codes[shown].long()) for codes in painter.exemplars.parts[name]["codes"]
        )
    assert fields.shape == (2, 3, painter.tokenizer.config.field, painter.tokenizer.config.field)


def test_a_large_dark_patch_moves_with_its_piece_though_the_light_holds_it() -> None:
    images = np.full((1, SIZE, SIZE), 160, np.uint8)
    images[0, 28:84, 28:84] = 60
    field = torch.full((1, 3, 4, 4), 160 / 127.5 - 1)
    field[:, :, 1:3, 1:3] = 60 / 127.5 - 1  # the patch fills the middle of the field
    light = light_levels(field, SIZE).numpy()
    exemplars = Exemplars.of(images, light, field, np.zeros((1, 6, 6), np.int64), ["pits"], 4)
    sharp = exemplars.library("pits").sharp[0]
    assert float(sharp[40:70, 40:70].mean()) == pytest.approx(-75, abs=1)  # 60 below the mean of 135
    assert float(sharp[:20].mean()) == pytest.approx(25, abs=1)
