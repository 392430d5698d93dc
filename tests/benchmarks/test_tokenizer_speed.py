"""The tokenizer's benchmark: every form is compared with plain float32, and emulated bf16 is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.tokenizer import compare
from metaldefect.images import to_tanh_range
from metaldefect.procedural.stream import draw_varied
from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.model import VQModel
from metaldefect.tokenizer.patch_start import start_from_images

FLOATS = {"float32", "float32_channels_last"}
HALVES = {"bfloat16_autocast", "bfloat16_channels_last"}


@pytest.mark.parametrize(("precision", "expected"), [("float32", FLOATS), ("bfloat16", FLOATS | HALVES)])
def test_forms_are_compared_where_the_machine_has_their_precision(
    precision: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALDEFECT_PRECISION", precision)
    torch.manual_seed(0)
    model = VQModel(named_config("vq16_tiny")).eval()
    metal = np.stack([draw_varied(0, number, 64)[0] for number in range(40)])
    start_from_images(model, metal, seed=0)
    images = to_tanh_range(metal[:8])
    assert len(model.encode(images).unique()) > 50
    found = compare(model, images, repeats=1)
    assert found.keys() == expected
    assert found["float32"]["token_agreement"] == 1.0
    assert found["float32"]["ssim"] > 0.5
    for name, form in found.items():
        assert form["token_agreement"] > (0.98 if name in FLOATS else 0.5)
        assert abs(form["ssim"] - found["float32"]["ssim"]) < (0.001 if name in FLOATS else 0.02)
        assert form["encode_images_per_s"] > 0
