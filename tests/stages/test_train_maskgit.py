"""A training that goes on from an earlier run's model: only where tokens and classes mean the same."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from metaldefect.artifacts import read_json, write_json
from metaldefect.errors import UserError
from metaldefect.maskgit.checkpoints import save_maskgit
from metaldefect.maskgit.model import MaskGIT
from metaldefect.maskgit.vocabulary import Vocabulary
from metaldefect.tokenizer.model import VQModel
from pipeline.params import Params, parse_params
from stages.train_maskgit import TokenData, images_seen, start_from_own
from tests.tiny_models import TINY, TINY_TOKENIZER, randomised

ROOT = Path(__file__).parents[2]
CLASSES = ("a", "b", "c")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "earlier"
    save_maskgit(randomised(TINY), folder, {"classes": list(CLASSES), "images_seen": 1000})
    Vocabulary.full(TINY.codebook_size).save(folder)
    return folder


def token_data(classes: tuple[str, ...] = CLASSES, vocabulary: Vocabulary | None = None) -> TokenData:
    return TokenData(
        np.zeros((1, 4, 4), np.uint16),
        np.zeros(1, np.int64),
        pd.DataFrame(),
        classes,
        vocabulary or Vocabulary.full(TINY.codebook_size),
        VQModel(TINY_TOKENIZER),
        64,
        None,
    )


def params(base: Path | None) -> Params:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["train_maskgit"]["base"] = base and str(base)
    return parse_params(content)


def test_it_starts_from_the_earlier_weights(earlier: Path) -> None:
    model = MaskGIT(TINY)
    start_from_own(model, earlier, token_data())
    assert torch.equal(model.cls_emb.weight, randomised(TINY).cls_emb.weight)


def test_other_codes_or_classes_are_refused(earlier: Path) -> None:
    other = Vocabulary(torch.arange(TINY.codebook_size).flip(0), torch.arange(TINY.codebook_size))
    with pytest.raises(UserError, match=r"others; set tokenize\.vocabulary to full"):
        start_from_own(MaskGIT(TINY), earlier, token_data(vocabulary=other))
    with pytest.raises(UserError, match="knows the classes"):
        start_from_own(MaskGIT(TINY), earlier, token_data(("a", "c", "b")))


def test_images_seen_are_those_of_both_trainings(earlier: Path) -> None:
    own = images_seen(params(None))
    assert own > 0
    assert images_seen(params(earlier)) == own + 1000
    config = read_json(earlier / "config.json")
    del config["images_seen"]
    write_json(earlier / "config.json", config)
    assert images_seen(params(earlier)) == own
