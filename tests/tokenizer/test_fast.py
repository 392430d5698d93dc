"""The compiled tokenizer gives the plain one's tokens and images."""

import pytest
import torch

from metaldefect.tokenizer.config import VQConfig
from metaldefect.tokenizer.fast import FastTokenizer
from metaldefect.tokenizer.model import VQModel


@pytest.mark.parametrize("patch_path", [False, True])
def test_float32_tokens_and_images_are_the_plain_ones(patch_path: bool) -> None:
    torch.manual_seed(0)
    config = VQConfig(
        channels=32,
        multipliers=(1, 1),
        encoder_blocks=1,
        decoder_blocks=1,
        z_channels=32,
        codebook_size=64,
        stem=2,
        patch_path=patch_path,
    )
    model = VQModel(config).eval()
    fast = FastTokenizer(model, image_size=32, batch_size=4)
    images = torch.rand(3, 3, 32, 32) * 2 - 1  # fewer than the batch
    tokens = model.encode(images)
    assert len(tokens.unique()) > 8
    assert float((fast.encode(images) == tokens).float().mean()) > 0.99
    torch.testing.assert_close(fast.decode(tokens), model.decode(tokens), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"encode is compiled for \[4, 3, 32, 32\], got \[1, 3, 64, 64\]"):
        fast.encode(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="codebook has 64 entries"):
        fast.decode(torch.full((1, 8, 8), 64))
