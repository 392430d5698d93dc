"""Saved models come back; Halton-MaskGIT's checkpoints are bodies for new classes and vocabularies."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import UserError
from metaldefect.maskgit.checkpoints import (
    load_maskgit,
    read_halton,
    save_maskgit,
    start_from_halton,
)
from metaldefect.maskgit.config import MaskGITConfig
from metaldefect.maskgit.model import MaskGIT, sincos_positions, start_from_codebook
from tests.tiny_models import TINY, randomised


def test_halton_checkpoint_gives_its_body_and_new_classes_start_from_null(tmp_path) -> None:
    source = randomised(MaskGITConfig(dim=32, depth=2, heads=2, classes=1000, codebook_size=11, grid=4))
    path = tmp_path / "ImageNet_256_small.pth"
    state = {f"module._orig_mod.{key}": value for key, value in source.state_dict().items()}
    torch.save({"iter": 3, "global_epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}}, path)
    model = MaskGIT(TINY)
    start_from_halton(model, read_halton(path), str(path))
    null = source.cls_emb.weight[1000]
    assert torch.equal(model.cls_emb.weight, null.expand(4, -1))
    assert torch.equal(model.transformer.layers[1].ff.w2.weight, source.transformer.layers[1].ff.w2.weight)
    assert model.head.weight is model.tok_emb.weight
    torch.testing.assert_close(
        model(torch.zeros(1, 16).long(), torch.tensor([3])),
        source(torch.zeros(1, 16).long(), torch.tensor([1000])),
    )


def test_halton_checkpoint_gives_the_rows_of_the_codes_that_are_used() -> None:
    source = randomised(MaskGITConfig(dim=32, depth=2, heads=2, classes=1000, codebook_size=16, grid=4))
    codes = torch.tensor([15, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    model = MaskGIT(TINY)
    start_from_halton(model, source.state_dict(), "a.pth", codes)
    assert torch.equal(model.tok_emb.weight[0], source.tok_emb.weight[15])
    assert torch.equal(model.tok_emb.weight[TINY.mask_id], source.tok_emb.weight[16])
    assert float(model.head.bias[1].detach()) == float(source.head.bias[0].detach())
    with pytest.raises(UserError, match=r"a\.pth knows 16 codes, the vocabulary goes up to 16"):
        start_from_halton(model, source.state_dict(), "a.pth", codes + 1)


def test_save_and_load(tmp_path) -> None:
    model = randomised(TINY)
    save_maskgit(model, tmp_path, {"classes": ["a", "b", "c"]})
    loaded = load_maskgit(tmp_path)
    tokens, labels = torch.randint(0, 12, (1, 16)), torch.tensor([1])
    assert torch.equal(loaded(tokens, labels), model(tokens, labels))
    assert F.mse_loss(loaded.head.weight, loaded.tok_emb.weight) == 0
    save_maskgit(randomised(TINY, seed=1), tmp_path / "other")
    (tmp_path / "other/maskgit.safetensors").replace(tmp_path / "maskgit.safetensors")
    with pytest.raises(UserError, match=r"maskgit\.safetensors has SHA-256 \w+, its card says"):
        load_maskgit(tmp_path)


def test_a_model_written_by_the_first_release_loads_the_same(tmp_path) -> None:
    source = randomised(TINY.replace(mixing=3, conditioning="sum")).eval()
    save_maskgit(source, tmp_path)
    sha256 = read_json(tmp_path / "config.json")["sha256"]
    shape = {
        "dim": 32, "depth": 2, "heads": 2, "classes": 3, "codebook_size": 11, "grid": 4, "dropout": 0.0,
        "conditioning": "sum", "mixing": 3,
    }  # fmt: skip
    write_json(tmp_path / "config.json", {"sha256": sha256, "maskgit": shape})
    loaded = load_maskgit(tmp_path)
    assert loaded.config == source.config
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in source.state_dict().items())
    write_json(tmp_path / "config.json", {"sha256": sha256, "maskgit": shape | {"mixing": 4}})
    with pytest.raises(UserError, match=r"config\.json is not valid:\n  mixing: .*must be 0 or odd"):
        load_maskgit(tmp_path)


def test_a_checkpoint_without_mixing_starts_one_with_it_unchanged() -> None:
    source = randomised(MaskGITConfig(dim=32, depth=2, heads=2, classes=1000, codebook_size=11, grid=4))
    model = MaskGIT(TINY.replace(mixing=3))
    start_from_halton(model, source.state_dict(), "a.pth")
    torch.testing.assert_close(
        model(torch.zeros(1, 16).long(), torch.tensor([3])),
        source(torch.zeros(1, 16).long(), torch.tensor([1000])),
    )
    with pytest.raises(ValidationError, match=r"mixing\s+Value error, must be 0 or odd"):
        TINY.replace(mixing=4)


def test_codes_that_look_alike_start_with_embeddings_that_are_alike() -> None:
    torch.manual_seed(0)
    codebook = F.normalize(torch.randn(11, 8), dim=1)
    codebook[1] = F.normalize(codebook[0] + 0.1 * torch.randn(8), dim=0)
    model = MaskGIT(TINY)
    mask = model.tok_emb.weight[TINY.mask_id].clone()
    start_from_codebook(model, codebook, 0.5)
    near = F.cosine_similarity(model.tok_emb.weight[:1], model.tok_emb.weight[1:11])
    assert int(near.argmax()) == 0
    assert float(near[0]) > 0.9 > float(near[1:].max())
    assert torch.equal(model.tok_emb.weight[TINY.mask_id], mask)
    assert model.head.weight is model.tok_emb.weight
    with pytest.raises(ValueError, match="10 codes for a model of 11"):
        start_from_codebook(model, codebook[:10], 0.5)


def test_fresh_positions_know_their_neighbours() -> None:
    waves = sincos_positions(8, 32)
    assert waves.shape == (64, 32)
    likeness = (waves @ waves.T).view(8, 8, 8, 8)[4, 4]
    assert int(likeness.argmax()) == 4 * 8 + 4
    assert likeness[4, 5] > likeness[4, 7]
    assert likeness[5, 4] == pytest.approx(float(likeness[4, 5]))
    torch.testing.assert_close(MaskGIT(TINY).pos_emb.weight, 0.05 * sincos_positions(4, 32))
