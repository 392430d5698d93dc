"""The tab Compare: which detectors it offers, and what it says about an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from app.familiar import Familiarity
from app.paint import UNLIKE
from app.studio import Studio
from app.tabs import compare_detectors
from tests.app.conftest import metal


def test_comparing_makes_the_remarks_of_inspect(
    studio: Studio, familiarity: Familiarity | None, tmp_path: Path
) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(colours).resize((1600, 1200)).save(tmp_path / "photo.png")
    names = list(studio.detectors)
    remarks, verdicts = compare_detectors(studio, familiarity, str(tmp_path / "photo.png"), names)
    assert remarks[0] == UNLIKE
    assert [part for part in ("colour picture", "from 1600 × 1200") if part in " ".join(remarks[1:])] == [
        "colour picture",
        "from 1600 × 1200",
    ]
    assert len(remarks) == 3  # each once, though two detectors looked
    assert [line.split(":")[0] for _, line in verdicts] == names
    Image.fromarray(metal(11)).save(tmp_path / "metal.png")
    remarks, verdicts = compare_detectors(studio, familiarity, str(tmp_path / "metal.png"), names)
    assert remarks == []
    assert [heat_map.shape for heat_map, _ in verdicts] == [(64, 64, 3), (64, 64, 3)]
