"""A training that goes on from an earlier run's model: only where tokens and classes mean the same."""

from pathlib import Path

import pytest
import torch

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import UserError
from metaldefect.maskgit.checkpoints import SHIPPED, save_maskgit
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.token_data import (
    CODEBOOK,
    images_seen_before,
    require_same_codes,
    start_from_own,
)
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.tokenizer.checkpoints import load_shipped
from metaldefect.tokenizer.codes import codebook_digest
from metaldefect.tokenizer.model import VQModel
from tests.tiny_models import TINY, TINY_TOKENIZER, randomised

CLASSES = ("a", "b", "c")
FULL = Vocabulary.full(TINY.codebook_size)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "earlier"
    save_maskgit(randomised(TINY), folder, {"classes": list(CLASSES), "images_seen": 1000})
    FULL.save(folder)
    return folder


def test_it_starts_from_the_earlier_weights(earlier: Path) -> None:
    model, source = MaskGIT(TINY).eval(), randomised(TINY)
    start_from_own(model, earlier, FULL, CLASSES)
    tokens, labels = torch.randint(0, 12, (1, 16)), torch.tensor([1])
    assert torch.equal(model(tokens, labels), source(tokens, labels))


def test_known_classes_keep_their_rows_and_new_ones_start_as_no_class(earlier: Path) -> None:
    model, source = MaskGIT(TINY), randomised(TINY).cls_emb.weight
    start_from_own(model, earlier, FULL, ("c", "dent", "a"))
    # The last row is no class
    assert torch.equal(model.cls_emb.weight, source[[2, 3, 0, 3]])


def test_a_vocabulary_of_fewer_codes_gets_their_rows(earlier: Path) -> None:
    codes = torch.tensor([7, 0, 3])
    model, source = MaskGIT(TINY.replace(codebook_size=3)), randomised(TINY)
    start_from_own(model, earlier, Vocabulary(codes, torch.zeros(TINY.codebook_size).long()), CLASSES)
    assert torch.equal(model.tok_emb.weight, source.tok_emb.weight[[7, 0, 3, TINY.mask_id]])
    assert torch.equal(model.head.bias, source.head.bias[[7, 0, 3, TINY.mask_id]])
    assert model.head.weight is model.tok_emb.weight


def test_codes_that_the_base_lacks_and_other_shapes_are_refused(earlier: Path) -> None:
    more = Vocabulary.full(TINY.codebook_size + 2)
    with pytest.raises(UserError, match=r"lacks 2 of the tokens' codes; set tokenize\.vocabulary to full"):
        start_from_own(MaskGIT(TINY.replace(codebook_size=13)), earlier, more, CLASSES)
    with pytest.raises(UserError, match=r"does not fit this model: missing .*mixing"):
        start_from_own(MaskGIT(TINY.replace(mixing=3)), earlier, FULL, CLASSES)


def test_a_base_of_another_tokenizer_is_refused(earlier: Path) -> None:
    torch.manual_seed(0)
    own, other = VQModel(TINY_TOKENIZER), VQModel(TINY_TOKENIZER)
    card = read_json(earlier / "config.json") | {CODEBOOK: codebook_digest(own)}
    write_json(earlier / "config.json", card)
    require_same_codes(str(earlier), own)
    own.decoder.conv_out.weight.data.add_(1.0)  # a decoder may change
    require_same_codes(str(earlier), own)
    with pytest.raises(UserError, match="codes of another tokenizer; set"):
        require_same_codes(str(earlier), other)
    require_same_codes(None, other)
    require_same_codes(str(earlier), other, near=codebook_digest(own))  # its codes have moved only slowly


def test_the_shipped_pair_belongs_together() -> None:
    require_same_codes("shipped", load_shipped())
    assert CODEBOOK in read_json(SHIPPED / "config.json")


def test_images_seen_count_the_earlier_training(earlier: Path) -> None:
    assert images_seen_before(None) == 0
    assert images_seen_before(str(earlier)) == 1000
    config = read_json(earlier / "config.json")
    del config["images_seen"]
    write_json(earlier / "config.json", config)
    assert images_seen_before(str(earlier)) == 0
