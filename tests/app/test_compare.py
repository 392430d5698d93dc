"""The tab Compare: which detectors it offers, and what it says about an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from app.familiar import Familiarity
from app.paint import UNLIKE
from app.studio import Studio
from app.tabs import compare_detectors
from pipeline.champion import CHALLENGER, CHAMPION, point, store
from tests.app.conftest import metal, save_bright_spot_detector


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


def test_what_serves_and_runs_of_one_folder_name_are_offered_by_their_own_names(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("run", "monday/line3", "tuesday/line3", "tuesday/champion")]
    for run in runs:
        save_bright_spot_detector(run / "models/openvino")
    own, *others = runs
    for name in ("vq", "maskgit"):
        (own / "models" / name).mkdir()
    point(own, CHAMPION, store(own, others[0] / "models/openvino"))
    studio = Studio(own, (*others, others[0]))
    folders = {name: folder for name, (folder, precision) in studio.detectors.items() if precision == "int8"}
    assert folders == {
        "this run, INT8": own / "models/openvino",
        "champion, INT8": own / "models/champion",
        "monday/line3, INT8": others[0] / "models/openvino",
        "tuesday/line3, INT8": others[1] / "models/openvino",
        "tuesday/champion, INT8": others[2] / "models/openvino",
    }
    point(own, CHALLENGER, store(own, others[0] / "models/openvino"))
    assert "challenger, FP16" in Studio(own).detectors
