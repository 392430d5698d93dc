"""The closed-form start: exact where patches repeat, silent convolutions, clear refusals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metaldefect.errors import UserError
from metaldefect.images import to_tanh_range
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import refit_codes, refit_outwards, spherical_kmeans, start_from_images

TINY = VQConfig(
    channels=32,
    multipliers=(1, 1),
    encoder_blocks=1,
    decoder_blocks=1,
    z_channels=32,
    codebook_size=32,
    stem=4,
    patch_path=True,
)
SIDE = 8  # pixels of a token: stem 4 and one halving


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """Images that are mosaics of five patches: five codes can say everything about them."""
    rng = np.random.default_rng(0)
    patches = rng.integers(40, 216, (5, SIDE, SIDE), dtype=np.uint8)
    chosen = rng.integers(0, 5, (40, 6, 6))
    return patches[chosen].transpose(0, 1, 3, 2, 4).reshape(40, 6 * SIDE, 6 * SIDE)


@pytest.fixture(scope="module")
def started(tiles: np.ndarray) -> VQModel:
    torch.manual_seed(0)
    model = VQModel(TINY).eval()
    start_from_images(model, tiles)
    return model


def test_patches_that_repeat_come_back_exactly(started: VQModel, tiles: np.ndarray) -> None:
    images = to_tanh_range(tiles)
    tokens = started.encode(images)
    assert len(tokens.unique()) == 5
    assert float((started.decode(tokens) - images).abs().max()) < 2 / 255


def test_the_codebook_is_of_unit_length_and_the_start_is_repeatable(started: VQModel, tiles) -> None:
    book = started.quantize.embedding.weight
    torch.testing.assert_close(book.norm(dim=1), torch.ones(32))
    torch.manual_seed(1)
    again = VQModel(TINY)
    start_from_images(again, tiles)
    assert torch.equal(again.quantize.embedding.weight, book)


def test_the_convolutions_start_silent_and_can_learn(started: VQModel, tiles: np.ndarray) -> None:
    images = to_tanh_range(tiles[:2])
    path = started.patch_path
    assert path is not None
    z = started.features(images)
    # The linear map of each patch, in numpy
    weight = path.inwards.weight.detach().numpy().astype(np.float64)
    patch = images[1, :, SIDE : 2 * SIDE, 0:SIDE].numpy()
    expected = np.tensordot(weight, patch, axes=3) + path.inwards.bias.detach().numpy()
    np.testing.assert_allclose(z[1, :, 1, 0].detach().numpy(), expected, atol=1e-5)
    decoded = started.to_images(F.normalize(z, dim=1), started.field(images))
    torch.testing.assert_close(decoded, path.decode(F.normalize(z, dim=1)))
    decoded.square().mean().backward()
    assert float(started.decoder.conv_out.weight.grad.abs().max()) > 0
    assert float(started.quant_conv.weight.grad.abs().max()) > 0
    started.zero_grad()


def test_kmeans_finds_clusters_on_the_sphere() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.eye(4)
    vectors = F.normalize(axes.repeat(50, 1) + 0.05 * torch.randn(200, 4, generator=generator), dim=1)
    centres = spherical_kmeans(vectors, 8, generator)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(8))
    assert float((axes @ centres.t()).max(dim=1).values.min()) > 0.99


def test_refusals_say_what_to_do(tiles: np.ndarray) -> None:
    with pytest.raises(UserError, match="36 patches cannot start 64 codes"):
        start_from_images(VQModel(TINY.replace(codebook_size=64)), tiles[:1])
    with pytest.raises(UserError, match="no patch path"):
        start_from_images(VQModel(TINY.replace(patch_path=False)), tiles)


def test_refitting_codes_suits_other_images_and_leaves_the_convolutions(tiles: np.ndarray) -> None:
    torch.manual_seed(0)
    model = VQModel(TINY).eval()
    start_from_images(model, np.full_like(tiles, 128) + tiles // 64)  # images of another kind
    torch.nn.init.normal_(model.decoder.conv_out.weight, std=0.01)  # a decoder that has learnt something
    images = to_tanh_range(tiles)

    def error() -> float:
        with torch.no_grad():
            return float((model(images).images - images).square().mean())

    before, convolutions = error(), model.decoder.conv_out.weight.clone()
    refit_codes(model, tiles)
    refit_outwards(model, tiles)
    assert torch.equal(model.decoder.conv_out.weight, convolutions)
    assert error() < 0.25 * before
