"""The light on the metal is taken away before encoding and given back; cell borders do not show."""

import numpy as np
import pytest
import torch

from metaldefect.metrics.blocks import block_ratio
from metaldefect.tokenizer.config import VQConfig, named_config
from metaldefect.tokenizer.deblocking import deblock
from metaldefect.tokenizer.fields import fields_by_class, load_fields, save_fields
from metaldefect.tokenizer.model import VQModel

WITH_FIELD = named_config("vq16_tiny")


def some_images(count: int = 2, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((count, 3, size, size), generator=generator) * 0.4 - 0.2


@pytest.fixture(scope="module")
def model() -> VQModel:
    torch.manual_seed(0)
    return VQModel(WITH_FIELD).eval()


def test_a_field_is_the_mean_of_each_cell_of_the_grid(model: VQModel) -> None:
    images = some_images()
    side = 64 // WITH_FIELD.field
    expected = images.numpy().reshape(2, 3, WITH_FIELD.field, side, WITH_FIELD.field, side).mean(axis=(3, 5))
    np.testing.assert_allclose(model.field(images).numpy(), expected, atol=1e-6)


def test_tokens_do_not_depend_on_the_brightness_and_decoding_gives_it_back(model: VQModel) -> None:
    images = some_images()
    brighter = images + 0.3
    tokens = model.encode(images)
    assert torch.equal(tokens, model.encode(brighter))
    difference = model.decode(tokens, model.field(brighter)) - model.decode(tokens, model.field(images))
    torch.testing.assert_close(difference, torch.full_like(difference, 0.3), atol=1e-5, rtol=0)


def test_decoding_without_the_light_is_refused(model: VQModel) -> None:
    with pytest.raises(ValueError, match="field has shape"):
        model.decode(torch.zeros(1, 4, 4, dtype=torch.long))
    plain = VQModel(VQConfig(channels=32, multipliers=(1, 1), z_channels=32, codebook_size=8, stem=4))
    assert plain.decode(torch.zeros(1, 4, 4, dtype=torch.long)).shape == (1, 3, 32, 32)


def test_cells_of_different_brightness_meet_without_a_step() -> None:
    rng = np.random.default_rng(0)
    cells = rng.uniform(90, 160, (3, 1, 4, 4)).repeat(16, axis=2).repeat(16, axis=3)
    texture = rng.normal(0, 1, (3, 1, 64, 64))
    blocky = torch.from_numpy(cells + texture).float()
    smooth = deblock(blocky, 16, 4)

    def ratio(images: torch.Tensor) -> float:
        return block_ratio(images[:, 0].round().clamp(0, 255).byte().numpy(), 16)

    assert ratio(blocky) > 5.0
    assert ratio(smooth) < 0.3 * ratio(blocky)


def test_only_pixels_within_the_reach_of_a_border_change() -> None:
    images = some_images() * 100
    change = (deblock(images, 16, 4) - images).abs().amax(dim=(0, 1)).numpy()
    near = np.array([min(i % 16, 15 - i % 16) < 4 for i in range(64)])
    assert change[np.ix_(~near, ~near)].max() == 0.0
    assert change[24, 16] > 0.0
    # The outer border of the image is no border between cells
    assert change[24, 0] == 0.0
    assert change[24, 63] == 0.0


def test_a_slope_across_a_border_stays() -> None:
    slope = torch.linspace(0, 63, 64).repeat(1, 1, 64, 1)
    torch.testing.assert_close(deblock(slope, 16, 4), slope, atol=1e-4, rtol=0)
    assert torch.equal(deblock(slope, 16, 0), slope)
    with pytest.raises(ValueError, match="reach = 9"):
        deblock(slope, 16, 9)


def test_fields_are_stored_by_class(tmp_path) -> None:
    fields = np.arange(5 * 3 * 2 * 2, dtype=np.float16).reshape(5, 3, 2, 2)
    save_fields(fields_by_class(fields, ["a", "b", "a", "a", "b"]), tmp_path)
    found = load_fields(tmp_path)
    assert {name: len(field) for name, field in found.items()} == {"a": 3, "b": 2}
    assert np.array_equal(found["b"].numpy(), fields[[1, 4]])
    assert load_fields(tmp_path / "none") == {}
