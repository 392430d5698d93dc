"""The examples in the docstrings of the models run and print what they say."""

import doctest
from types import ModuleType

import pytest

from metaldefect.efficientad import torch_model
from metaldefect.maskgit import model as maskgit_model
from metaldefect.tokenizer import model as tokenizer_model
from metaldefect.tokenizer import perceptual


@pytest.mark.parametrize("module", [torch_model, tokenizer_model, maskgit_model, perceptual])
def test_examples_print_what_they_say(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
