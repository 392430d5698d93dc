"""A training that goes on from an earlier run's model: only where tokens and classes mean the same."""

from pathlib import Path

import pytest
import torch

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import UserError
from metaldefect.maskgit.checkpoints import save_maskgit
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.token_data import images_seen_before, start_from_own
from metaldefect.maskgit.vocabulary import Vocabulary
from tests.tiny_models import TINY, randomised

CLASSES = ("a", "b", "c")
FULL = Vocabulary.full(TINY.codebook_size)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "earlier"
    save_maskgit(randomised(TINY), folder, {"classes": list(CLASSES), "images_seen": 1000})
    FULL.save(folder)
    return folder


def test_it_starts_from_the_earlier_weights(earlier: Path) -> None:
    model = MaskGIT(TINY)
    start_from_own(model, earlier, FULL, CLASSES)
    assert torch.equal(model.cls_emb.weight, randomised(TINY).cls_emb.weight)


def test_other_codes_or_classes_are_refused(earlier: Path) -> None:
    other = Vocabulary(torch.arange(TINY.codebook_size).flip(0), torch.arange(TINY.codebook_size))
    with pytest.raises(UserError, match=r"others; set tokenize\.vocabulary to full"):
        start_from_own(MaskGIT(TINY), earlier, other, CLASSES)
    with pytest.raises(UserError, match="knows the classes"):
        start_from_own(MaskGIT(TINY), earlier, FULL, ("a", "c", "b"))


def test_images_seen_count_the_earlier_training(earlier: Path) -> None:
    assert images_seen_before(None) == 0
    assert images_seen_before(str(earlier)) == 1000
    config = read_json(earlier / "config.json")
    del config["images_seen"]
    write_json(earlier / "config.json", config)
    assert images_seen_before(str(earlier)) == 0
