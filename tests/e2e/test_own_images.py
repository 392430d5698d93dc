"""A plant's own folder runs through the whole pipeline, by the lines that docs/data.md prints."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import ROOT, Project, clone
from tests.plant import write_plant

pytestmark = pytest.mark.e2e


def run_own_images(folder: Path, give_store: Callable[[Path], None]) -> Project:
    """Run the documented profile on a plant's folder; only the sizes are the smoke run's.

    DVC runs the merge; that it runs the other stages, each in a process of its own, is in `test_pipeline.py`.
    """
    project = clone(folder, "tiny")
    give_store(folder)
    write_plant(folder / "data/raw/my-plant")
    profile = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)[0]
    tiny = profile.replace("# @package _global_", "# @package _global_\ndefaults: [tiny, _self_]")
    (folder / "conf/profile/mine.yaml").write_text(tiny)
    project.run(sys.executable, "-m", "pipeline.profiles", "mine")
    project.dvc("repro", "merge")
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    project.stages(*(name for name in stages if name != "merge"))
    return project


def metrics(project: Project, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.root / f"metrics/{stage}.json").read_text())
    return found


def test_defects_of_which_half_have_masks(tmp_path: Path, give_store: Callable[[Path], None]) -> None:
    project = run_own_images(tmp_path, give_store)
    merged = metrics(project, "merge")
    assert merged["per_class"] == {"dent": 30, "scratch": 30}
    assert (merged["rejected"], merged["with_mask"], merged["levels"]["folder"]["high"]) == (0, 30, 65535)
    inserted = metrics(project, "synthesize")["insertions"]
    assert inserted["drawn"] == 4
    detector = metrics(project, "evaluate_efficientad")
    assert detector["image_auroc"] > 0.8
    assert detector["defective_without_mask"] > 0
    bundle = json.loads((tmp_path / "models/openvino/metadata.json").read_text())
    for model in ("vq", "maskgit"):
        card = json.loads((tmp_path / f"models/{model}/config.json").read_text())
        assert card["levels"]["folder"]["high"] == 65535
    assert bundle["input"]["levels"] == {"low": 0.0, "high": 65535.0, "clip": False}
    assert (tmp_path / "reports/index.html").is_file()
    keeps_the_last_good_run(project)


def keeps_the_last_good_run(project: Project) -> None:
    """A refused file stops the merge and costs nothing."""
    before = (project.root / "data/merged/samples.parquet").read_bytes()
    (project.root / "data/raw/my-plant/dent/broken.png").write_text("no image")
    output = project.dvc("repro", "merge", check=False)
    assert "folder/dent/broken.png: unreadable image" in output
    assert (project.root / "data/merged/samples.parquet").read_bytes() == before
    assert (project.root / "metrics/merge.json").is_file()
