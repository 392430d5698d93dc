"""The tokenizer is LlamaGen's VQ-16 by shape and name, and quantises as worked out by hand."""

import argparse
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import UserError
from metaldefect.tokenizer.checkpoints import (
    load_base,
    load_tokenizer,
    read_llamagen,
    save_tokenizer,
    write_llamagen,
)
from metaldefect.tokenizer.config import VQConfig, named_config
from metaldefect.tokenizer.model import AttentionBlock, VQModel
from metaldefect.tokenizer.quantizer import VectorQuantizer

TINY = VQConfig(
    channels=32, multipliers=(1, 1), encoder_blocks=1, decoder_blocks=1, z_channels=32, codebook_size=16
)


@pytest.fixture(scope="module")
def full() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return VQModel(named_config("vq16")).state_dict()


def test_full_size_has_llamagens_keys_and_parameters(full: dict[str, torch.Tensor]) -> None:
    assert len(full) == 344
    assert sum(key.startswith("encoder.") for key in full) == 144
    assert sum(key.startswith("decoder.") for key in full) == 194
    learnt = sum(v.numel() for k, v in full.items() if k != "quantize.codebook_used")
    assert learnt == 71_883_403


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("encoder.conv_in.weight", (128, 3, 3, 3)),
        ("encoder.conv_blocks.2.res.0.nin_shortcut.weight", (256, 128, 1, 1)),
        ("encoder.conv_blocks.4.res.0.nin_shortcut.weight", (512, 256, 1, 1)),
        ("encoder.conv_blocks.4.attn.1.proj_out.weight", (512, 512, 1, 1)),
        ("encoder.conv_blocks.3.downsample.conv.weight", (256, 256, 3, 3)),
        ("encoder.mid.1.q.weight", (512, 512, 1, 1)),
        ("encoder.conv_out.weight", (256, 512, 3, 3)),
        ("decoder.conv_blocks.1.res.0.nin_shortcut.weight", (256, 512, 1, 1)),
        ("decoder.conv_blocks.3.res.0.nin_shortcut.weight", (128, 256, 1, 1)),
        ("decoder.conv_blocks.0.attn.2.norm.weight", (512,)),
        ("decoder.conv_blocks.0.upsample.conv.weight", (512, 512, 3, 3)),
        ("decoder.conv_blocks.3.upsample.conv.weight", (128, 128, 3, 3)),
        ("decoder.conv_out.weight", (3, 128, 3, 3)),
        ("quant_conv.weight", (8, 256, 1, 1)),
        ("post_quant_conv.weight", (256, 8, 1, 1)),
        ("quantize.embedding.weight", (16384, 8)),
        ("quantize.codebook_used", (65536,)),
    ],
)
def test_full_size_key_shapes(full: dict[str, torch.Tensor], key: str, shape: tuple[int, ...]) -> None:
    assert tuple(full[key].shape) == shape


def test_256_pixels_become_16_by_16_tokens_at_every_named_size() -> None:
    for name in ("vq16", "vq16_small", "vq16_tiny"):
        assert named_config(name).grid(256) == 16
    assert named_config("vq8").grid(256) == 32
    with pytest.raises(UserError, match="250 is not a multiple of 16"):
        named_config("vq16").grid(250)
    with pytest.raises(UserError, match=r"unknown tokenizer 'vq32'.*vq16_small"):
        named_config("vq32")
    with pytest.raises(ValidationError, match="multiple of 32"):
        named_config("vq16").replace(channels=48)


def test_quantizer_numbers_match_numpy() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 4, 3, 3)).astype(np.float32)
    codebook = rng.normal(size=(5, 4)).astype(np.float32)
    quantizer = VectorQuantizer(5, 4)
    quantizer.embedding.weight.data = torch.from_numpy(codebook)
    out = quantizer.eval()(torch.from_numpy(z))

    unit = codebook / np.linalg.norm(codebook, axis=1, keepdims=True)
    error = 0.0
    for n in range(2):
        for i in range(3):
            for j in range(3):
                vector = z[n, :, i, j] / np.linalg.norm(z[n, :, i, j])
                distances = ((vector - unit) ** 2).sum(axis=1)
                best = int(distances.argmin())
                assert int(out.tokens[n, i, j]) == best
                np.testing.assert_allclose(out.z[n, :, i, j].numpy(), unit[best], atol=1e-6)
                error += distances[best]
    assert float(out.codebook_loss) == pytest.approx(error / z.size, rel=1e-5)
    assert float(out.commitment_loss) == pytest.approx(error / z.size, rel=1e-5)


def test_entropy_loss_matches_numpy() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(6, 4)
    z = F.normalize(torch.randn(10, 4), dim=-1)
    book = quantizer.codebook.detach().numpy().astype(np.float64)
    d = ((z.numpy().astype(np.float64)[:, None] - book[None]) ** 2).sum(-1) / 0.01
    p = np.exp(-d + d.min(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    sample = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean()
    mean = p.mean(axis=0)
    expected = sample + (mean * np.log(mean + 1e-5)).sum()
    assert float(quantizer.entropy_loss(z)) == pytest.approx(expected, abs=1e-3)


def test_gradient_passes_straight_through() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 4)
    z = torch.randn(1, 4, 2, 2, requires_grad=True)
    weight = torch.randn(1, 4, 2, 2)
    (quantizer(z).z * weight).sum().backward()
    other = z.detach().clone().requires_grad_()
    (F.normalize(other, dim=1) * weight).sum().backward()
    torch.testing.assert_close(z.grad, other.grad)


def test_attention_block_matches_its_definition() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(32)
    x = torch.randn(1, 32, 4, 4)
    h = block.norm(x)
    q, k, v = (m(h).flatten(2)[0] for m in (block.q, block.k, block.v))
    weights = torch.softmax(q.T @ k * 32**-0.5, dim=-1)
    expected = x + block.proj_out((v @ weights.T).reshape(1, 32, 4, 4))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_decode_of_encode_is_the_forward_pass() -> None:
    torch.manual_seed(0)
    model = VQModel(TINY).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    out = model(images)
    tokens = model.encode(images)
    assert torch.equal(tokens, out.quantized.tokens)
    torch.testing.assert_close(model.decode(tokens), out.images, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="codebook has 16 entries"):
        model.decode(torch.full((1, 16, 16), 16))


def test_llamagen_checkpoint_round_trip_in_all_forms(tmp_path) -> None:
    torch.manual_seed(0)
    model = VQModel(TINY)
    plain = tmp_path / "plain.pt"
    write_llamagen(model, plain)
    trainer = tmp_path / "trainer.pt"
    torch.save(
        {
            "model": {key: torch.zeros_like(value) for key, value in model.state_dict().items()},
            "ema": model.state_dict(),
            "optimizer": {},
            "steps": 3,
            "args": argparse.Namespace(lr=1e-4),
        },
        trainer,
    )
    for path in (plain, trainer):
        loaded = load_base(str(path), TINY)
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key


def test_a_pickle_with_code_is_refused(tmp_path) -> None:
    class Bad:
        def __reduce__(self):
            return (print, ("ran",))

    path = tmp_path / "bad.pt"
    torch.save({"model": Bad()}, path)
    with pytest.raises(UserError, match="refused"):
        read_llamagen(path)
    path.write_bytes(pickle.dumps(Bad()))
    with pytest.raises(UserError, match="refused"):
        read_llamagen(path)


def test_missing_and_misshapen_keys_are_named(tmp_path) -> None:
    state = VQModel(TINY).state_dict()
    del state["quant_conv.bias"]
    state["decoder.conv_out.weight"] = torch.zeros(3, 3, 3, 3)
    path = tmp_path / "x.pt"
    torch.save({"model": state}, path)
    with pytest.raises(UserError, match=r"missing quant_conv\.bias") as error:
        load_base(str(path), TINY)
    assert "decoder.conv_out.weight has shape [3, 3, 3, 3], expected [3, 32, 3, 3]" in str(error.value)


def test_save_and_load(tmp_path) -> None:
    model = VQModel(TINY)
    save_tokenizer(model, tmp_path, {"image_size": 32})
    loaded = load_tokenizer(tmp_path)
    assert loaded.config == TINY
    (tmp_path / "other").mkdir()
    save_tokenizer(VQModel(TINY), tmp_path / "other")
    (tmp_path / "other/tokenizer.safetensors").replace(tmp_path / "tokenizer.safetensors")
    for load in (lambda: load_tokenizer(tmp_path), lambda: load_base(str(tmp_path), TINY)):
        with pytest.raises(UserError, match=r"tokenizer\.safetensors has SHA-256 \w+, its card says"):
            load()
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())


def test_a_model_written_before_the_entropy_ratio_left_its_shape_loads_the_same(tmp_path) -> None:
    model = VQModel(TINY)
    save_tokenizer(model, tmp_path)
    sha256 = read_json(tmp_path / "config.json")["sha256"]
    shape = {
        "channels": 32, "multipliers": [1, 1], "encoder_blocks": 1, "decoder_blocks": 1, "z_channels": 32,
        "codebook_size": 16, "codebook_dim": 8, "commitment": 0.25, "entropy_ratio": 0.0, "stem": 1,
        "patch_path": False,
    }  # fmt: skip
    write_json(tmp_path / "config.json", {"sha256": sha256, "tokenizer": shape})
    loaded = load_tokenizer(tmp_path)
    assert loaded.config == TINY
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())
    write_json(tmp_path / "config.json", {"sha256": sha256, "tokenizer": shape | {"stem": 3, "steam": 1}})
    with pytest.raises(UserError, match=r"config\.json is not valid:\n  stem: .*\n  steam: Extra inputs"):
        load_tokenizer(tmp_path)
