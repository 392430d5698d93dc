"""Encoding goes on where an interrupted run stopped, and ends with the same tokens."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metaldefect.tokenizer.config import named_config
from metaldefect.tokenizer.model import VQModel
from stages import tokenize


def test_an_interrupted_encoding_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(7)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(tmp_path / name)
    table = pd.DataFrame({"root": str(tmp_path), "path": names})
    torch.manual_seed(0)
    model = VQModel(named_config("vq16_tiny")).eval()
    whole = tmp_path / "whole.npy"
    tokenize.encode(model, table, 32, 2, whole)

    calls = 0
    original = tokenize.batch_encoder

    def fails_at_the_third(*arguments):
        encoder = original(*arguments)

        def wrapped(images: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise KeyboardInterrupt
            return encoder(images)

        return wrapped

    monkeypatch.setattr(tokenize, "batch_encoder", fails_at_the_third)
    parts = tmp_path / "run" / "parts.npy"
    with pytest.raises(KeyboardInterrupt):
        tokenize.encode(model, table, 32, 2, parts)
    assert (np.load(parts) == tokenize.MISSING).all(axis=(1, 2)).tolist() == [False] * 4 + [True] * 3
    tokenize.encode(model, table, 32, 2, parts)
    assert calls == 5  # two images are left after the interruption's batch: 2 + 1
    np.testing.assert_array_equal(np.load(parts), np.load(whole))
    assert np.load(whole).max() < 256


def test_each_row_gets_the_cells_of_its_mask_else_of_its_boxes(tmp_path: Path) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:8, 8:16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    box = '[{"label": "rust", "xmin": 16, "ymin": 24, "xmax": 32, "ymax": 32}]'
    rows = pd.DataFrame(
        {"root": str(tmp_path), "mask_path": ["mask.png", None], "boxes": [box, box], "width": 32}
    )
    found = tokenize.cells_of_defects(rows, 4)
    assert found.dtype == bool
    assert [np.argwhere(cells).tolist() for cells in found] == [[[0, 1]], [[3, 2], [3, 3]]]
