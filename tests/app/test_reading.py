"""Uploads are read as they stand upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from app.reading import read_mask_of


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photograph_of_16_bit_colour_takes_a_mask(tmp_path: Path, orientation: int) -> None:
    photograph = tmp_path / "deep.tif"
    pixels = np.full((40, 60, 3), 30_000, np.uint16)
    tifffile.imwrite(photograph, pixels, photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)])
    upright = (40, 60) if orientation == 1 else (60, 40)
    marked = np.zeros(upright, bool)
    marked[10:20, 5:30] = True
    Image.fromarray(marked.astype(np.uint8) * 255).save(tmp_path / "m.png")
    found = read_mask_of(tmp_path / "m.png", photograph, np.zeros(upright, np.uint8))
    assert np.array_equal(found, marked)
