"""A tokenizer in colour: what it keeps of a grey one, and that a red blotch stays red."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from metaldefect.errors import UserError
from metaldefect.images import as_channels, decoded_levels, to_tanh_range
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.token_data import require_same_codes, start_from_own
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.metrics.blocks import block_ratio
from metaldefect.metrics.reconstruction import edge_iou, edges, ssim
from metaldefect.tokenizer.checkpoints import load_base, load_tokenizer, save_tokenizer
from metaldefect.tokenizer.codes import codebook_digest, grey_codebook_digest
from metaldefect.tokenizer.colour import grey_codes_alike, widen
from metaldefect.tokenizer.evaluation import Distance, reconstruct
from metaldefect.tokenizer.fields import plane_of
from metaldefect.tokenizer.lightning_module import VQLightning
from metaldefect.tokenizer.losses import ssim_loss
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.training_config import VQTrainingConfig
from metaldefect.training.data import SampledBatches
from metaldefect.training.trainer import fit
from tests.coloured import BROWN, RED, SMALL, coloured_tokenizer, plates
from tests.tiny_models import randomised


@pytest.fixture(scope="module")
def coloured() -> VQModel:
    return coloured_tokenizer()


@pytest.fixture(scope="module")
def grey() -> VQModel:
    """Random weights, different in every channel."""
    torch.manual_seed(3)
    return VQModel(SMALL).eval()


@torch.no_grad()
def through(model: VQModel, images: np.ndarray) -> np.ndarray:
    pixels = to_tanh_range(images)
    return decoded_levels(
        model.decode(model.encode(pixels), model.field(pixels)), model.config.image_channels
    )


def test_a_widened_tokenizer_gives_grey_images_back_as_the_grey_one_does(grey: VQModel) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    rgb = np.stack([as_channels(image, 3) for image in images])
    wide = widen(grey)
    assert torch.equal(wide.encode(to_tanh_range(rgb)), grey.encode(to_tanh_range(images)))
    expected = through(grey, images)
    assert expected.std() > 10
    np.testing.assert_allclose(through(wide, rgb), np.repeat(expected[..., None], 3, axis=3), atol=0.01)


def test_a_widened_encoder_sees_the_mean_of_the_channels_and_the_hue(grey: VQModel) -> None:
    images, _ = plates(2)
    mean = to_tanh_range(images).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    with torch.no_grad():
        wide = widen(grey).features(to_tanh_range(images))
        torch.testing.assert_close(wide[:, :8], grey.features(mean), atol=1e-4, rtol=1e-4)
    red_pixels = np.zeros((1, 64, 64, 3), np.uint8)
    red_pixels[0, :8, :8, 0] = 255
    colour = VQModel(SMALL.replace(field=0)).eval()
    with torch.no_grad():
        hue = widen(colour).features(to_tanh_range(red_pixels))[0, 8:, 0, 0]
    # Red minus green over the root of 2, red plus green minus twice blue over that of 6: the range is 2,
    # the residual's gain counts only where light is subtracted, and hues weigh 4
    np.testing.assert_allclose(hue, [8 / np.sqrt(2), 8 / np.sqrt(6)], rtol=1e-5)


def test_a_red_blotch_stays_red_and_brown_metal_brown(coloured: VQModel) -> None:
    images, blotches = plates(6, seed=9)
    again = through(coloured, images)
    inner = np.stack([blotch & np.roll(blotch, 4, 0) & np.roll(blotch, -4, 0) for blotch in blotches])
    np.testing.assert_allclose(again[inner].mean(axis=0), RED, atol=20)
    np.testing.assert_allclose(again[~blotches].mean(axis=0), BROWN, atol=6)


def test_a_blotch_does_not_tint_the_light_around_it() -> None:
    field = (
        torch.tensor([0.3, 0.1, -0.1])[None, :, None, None] + torch.linspace(-0.2, 0.2, 4)[None, None, None]
    )
    field = field.expand(1, 3, 4, 4).clone()
    plain = plane_of(field, 3)
    torch.testing.assert_close(plain, field)
    field[0, 0, 1:3, 1:3] += 0.6  # four of sixteen cells are redder
    light = plane_of(field, 3)[0]
    torch.testing.assert_close(light[0] - light[2], torch.full((4, 4), 0.4))
    tinted = plane_of(field)[0]
    assert (tinted[0] - tinted[2]).mean() > 0.5


def test_the_hue_needs_its_codes(coloured: VQModel) -> None:
    images, blotches = plates(4, seed=9)
    wanted = coloured.encode(to_tanh_range(images))
    assert (wanted >= 64).any(), "patches of the blotch have codes of another hue"
    brown, _ = plates(4, seed=9, red=False)
    own = coloured.encode(to_tanh_range(brown)) < 64
    assert own.float().mean() > 0.9, "even metal has the grey model's codes"
    with torch.no_grad():
        flat = coloured.decode(grey_codes_alike(coloured)[wanted], coloured.field(to_tanh_range(images)))
    levels = decoded_levels(flat, 3)[blotches]
    assert (levels[:, 0] - levels[:, 1]).mean() < 0.7 * (RED[0] - RED[1])


def test_codes_for_hues_name_the_grey_code_that_they_are_like(grey: VQModel) -> None:
    alike = grey_codes_alike(widen(grey))
    assert alike.tolist() == [*range(64), *range(32)]


def test_a_tokenizer_of_colours_is_saved_and_loaded(coloured: VQModel, tmp_path: Path) -> None:
    save_tokenizer(coloured, tmp_path)
    images, _ = plates(1, seed=2)
    assert load_tokenizer(tmp_path).config.image_channels == 3
    for loaded in (load_tokenizer(tmp_path), load_base(str(tmp_path), SMALL, 3).eval()):
        np.testing.assert_array_equal(through(loaded, images), through(coloured, images))
    with pytest.raises(UserError, match=r"tokenizer of colour images: set data\.channels to 3"):
        load_base(str(tmp_path), SMALL, 1)


def test_a_grey_base_in_a_folder_waits_to_be_widened(grey: VQModel, tmp_path: Path) -> None:
    save_tokenizer(grey, tmp_path)
    assert load_base(str(tmp_path), SMALL, 3).config == SMALL


def test_a_maskgit_of_the_grey_codes_goes_on_in_colour(grey: VQModel, tmp_path: Path) -> None:
    from metaldefect.maskgit.checkpoints import save_maskgit

    wide = widen(grey)
    assert grey_codebook_digest(wide) == codebook_digest(grey)
    base = randomised(MaskGITConfig(dim=32, depth=1, heads=2, classes=1, codebook_size=64, grid=8))
    save_maskgit(base, tmp_path, {"classes": ["rust"], "codebook_sha256": codebook_digest(grey)})
    Vocabulary.full(64).save(tmp_path)
    require_same_codes(str(tmp_path), wide)
    codes = torch.tensor([2, 63, 64, 70])  # two grey ones, and hues of the codes 0 and 6
    model = randomised(MaskGITConfig(dim=32, depth=1, heads=2, classes=1, codebook_size=4, grid=8), seed=1)
    start_from_own(model, tmp_path, Vocabulary(codes, codes), ["rust"], grey_codes_alike(wide))
    rows = base.tok_emb.weight[[2, 63, 0, 6, 64]]
    torch.testing.assert_close(model.tok_emb.weight, rows)


def test_training_in_colour_moves_the_weights_and_keeps_the_hues_of_the_codes() -> None:
    torch.manual_seed(0)
    model = coloured_tokenizer()
    hues = model.quantize.embedding.weight[:, -2:].detach().clone()
    module = VQLightning(
        model,
        VQTrainingConfig(
            steps=2, warmup_steps=0, perceptual="efficientnet_lite0", ssim_weight=1.0, adversarial_weight=0.0,
            discriminator_channels=8, codebook_decay=0.9,
        ),
    )  # fmt: skip
    before = model.decoder.conv_out.weight.detach().clone()
    batches = SampledBatches(torch.from_numpy(plates(4)[0]), 2, seed=0)
    history = fit(module, batches, steps=2, epoch_steps=4, seed=0, checkpoint_directory=None)
    assert np.isfinite([row["l1"] for row in history]).all()
    assert not torch.equal(model.decoder.conv_out.weight, before)
    torch.testing.assert_close(model.quantize.embedding.weight[:, -2:].detach(), hues)


def test_reconstructions_of_colours_are_scored_on_all_channels(coloured: VQModel) -> None:
    images, _ = plates(3, seed=9)
    found = reconstruct(coloured, images, Distance.named("efficientnet_lite0"))
    assert found.images.shape == images.shape
    expected = structural_similarity(
        found.images[0], images[0], data_range=255, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, channel_axis=2,
    )  # fmt: skip
    assert found.scores["ssim"][0] == pytest.approx(expected)
    assert block_ratio(found.images, 8) == pytest.approx(
        block_ratio(np.stack([as_channels(image, 1) for image in found.images]), 8)
    )


def test_edges_are_those_of_the_luminance() -> None:
    square = np.full((40, 40, 3), 76, np.uint8)
    square[10:30, 10:30] = (255, 0, 0)  # as bright as grey 76 by Rec. 601
    assert not edges(square).any()
    assert edge_iou(square, np.full((40, 40), 76, np.uint8)) == 1.0
    assert ssim(square, np.full((40, 40, 3), 76, np.uint8)) < 0.9


def test_ssim_loss_of_three_channels_is_one_minus_their_mean() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, (5, 40, 90), a.shape), 0, 255).astype(np.uint8)
    loss = ssim_loss(*(to_tanh_range(x[None]) for x in (a, b)), channels=3)
    assert float(loss) == pytest.approx(1.0 - ssim(a, b), abs=1e-4)
