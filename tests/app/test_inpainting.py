"""The demo's functions, on small models saved as the pipeline saves them."""

import numpy as np
import pytest
import torch

from app.inpainting import (
    Studio,
    decode_from_tokens,
    encode_to_tokens,
    inpaint_image,
    visualize_mask_on_image,
)
from metaldefect.errors import UserError
from metaldefect.maskgit.checkpoints import save_maskgit
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.tokenizer.checkpoints import save_tokenizer
from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.model import VQModel


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Studio:
    root = tmp_path_factory.mktemp("project")
    torch.manual_seed(0)
    tokenizer = VQModel(
        VQConfig(
            channels=32, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, z_channels=32,
            codebook_size=32, stem=4,
        )
    )  # fmt: skip
    save_tokenizer(tokenizer, root / "models/vq", {"image_size": 64})
    maskgit = MaskGIT(MaskGITConfig(dim=32, depth=1, heads=2, classes=2, codebook_size=20, grid=8))
    save_maskgit(maskgit, root / "models/maskgit", {"classes": ["a", "b"], "image_size": 64})
    Vocabulary.of(np.arange(20), tokenizer.quantize.codebook.detach()).save(root / "models/maskgit")
    (root / "models/openvino").mkdir()
    return Studio(root)


def test_tokens_round_trip(studio: Studio) -> None:
    image = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    tokens = encode_to_tokens(studio, image)
    assert tokens.shape == (8, 8)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 20
    assert decode_from_tokens(studio, tokens, image).shape == (64, 64)
    with pytest.raises(ValueError, match=r"expected \[0, 20\)"):
        decode_from_tokens(studio, torch.full((8, 8), 20), image)


def test_inpainting_changes_the_masked_part_alone_and_depends_on_the_seed(studio: Studio) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64)).astype(np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[24:40, 24:40] = True
    one = inpaint_image(studio, image, mask, "b", seed=1, steps=2)
    again = inpaint_image(studio, image, mask, "b", seed=1, steps=2)
    other = inpaint_image(studio, image, mask, "b", seed=2, steps=2)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(one[:16], image[:16])
    assert not np.array_equal(one[mask], image[mask])


def test_the_mask_is_shown_in_red() -> None:
    mask = np.zeros((2, 2), bool)
    mask[0, 0] = True
    shown = visualize_mask_on_image(np.full((2, 2), 100, np.uint8), mask)
    assert shown[0, 0].tolist() == [170, 68, 68]
    assert shown[1, 1].tolist() == [100, 100, 100]
    with pytest.raises(ValueError, match="mask has shape"):
        visualize_mask_on_image(np.zeros((3, 3), np.uint8), mask)


def test_without_models_it_says_what_to_run(tmp_path) -> None:
    with pytest.raises(UserError, match="make repro"):
        Studio(tmp_path)
