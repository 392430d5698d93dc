"""From a plant's folders to drawn defects by the three commands that `metaldefect new` prints, in small.

The plant has files of four kinds, 8 and 16 bits, and masks for some of its defects.
"""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metaldefect.artifacts import read_json
from metaldefect.images import read_grey
from tests.e2e.conftest import ROOT
from tests.plant import write_folders

pytestmark = pytest.mark.e2e

DEFECTS, UNMASKED = 15, 5  # per class
DETECTOR_STEPS = 2
DEEPEST = 65535  # level of 16-bit files


def run(folder: Path, environment: dict[str, str], command: list[str], fails: bool = False) -> str:
    """Run a command in a folder; another end than the expected one shows its output."""
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert (done.returncode != 0) == fails, f"{command} exited with {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with changes; a key that the settings lack is an error."""
    assert changes.keys() <= settings.keys()
    return {
        key: merged(value, changes[key])
        if isinstance(value, Mapping) and key in changes
        else changes.get(key, value)
        for key, value in settings.items()
    }


def shrink(project: Path) -> None:
    """Give the project the sizes and steps of the profile tiny, and its detector alone a few steps."""
    tiny = yaml.safe_load((ROOT / "conf/profile/tiny.yaml").read_text())
    del tiny["sample"]  # such a project has none
    params = merged(yaml.safe_load((project / "params.yaml").read_text()), tiny)
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    detector = yaml.safe_load((project / "detector.yaml").read_text())
    few = {
        "minutes": None, "steps": DETECTOR_STEPS, "checkpoint_steps": DETECTOR_STEPS, "penalty_images": 8,
        "image_size": 128,
    }  # fmt: skip
    (project / "detector.yaml").write_text(yaml.safe_dump(merged(detector, few), sort_keys=False))


def test_three_commands_lead_from_folders_to_drawn_defects(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    write_folders(tmp_path / "plant", DEFECTS, unmasked=UNMASKED)
    folders = [f"--{name}=plant/{name}" for name in ("good", "defects", "masks")]
    new = [sys.executable, "-m", "pipeline.cli", "new", "line3", *folders]
    told = run(tmp_path, environment, new).partition("Next:")[2]
    commands = [shlex.split(line, comments=True) for line in told.splitlines()]
    insert, train, repro = [words for words in commands if words and words[0] in ("metaldefect", "dvc")]
    project = tmp_path / "line3"
    shrink(project)

    run(project, environment, insert)
    with (project / "inserted/manifest.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["visible"] == "True"]
    assert {row["label"] for row in rows} == {"dent", "scratch"}
    assert len(rows) > 100, "60 good images, two classes"
    for row in rows:
        mask = read_grey(project / "inserted" / row["mask"])
        assert np.count_nonzero(mask) == int(row["area"]) > 0
        assert (project / "inserted" / row["image"]).is_file()

    run(project, environment, train)
    assert read_json(project / "detector/metrics.json")["steps"] == DETECTOR_STEPS
    assert read_json(project / "detector/openvino/metadata.json")["precisions"].keys() >= {"fp32", "int8"}

    output = run(project, environment, repro)
    assert "Running stage 'report':\n> python -m stages.report\n" in output
    for label in ("dent", "scratch"):
        drawn = sorted((project / f"data/synthetic/images/{label}").glob("*.png"))
        assert len(drawn) == 4, label
    with (project / "data/synthetic/inserted/insertions.csv").open(newline="") as stream:
        assert {row["label"] for row in csv.DictReader(stream)} == {"dent", "scratch"}
    assert (project / "models/openvino/metadata.json").is_file()
    page = (project / "reports/index.html").read_text()
    assert "line3" in page
    assert "All images of this run are procedural" not in page
    finds_what_the_folders_hold(project)
    keeps_the_last_good_run(project, environment)


def finds_what_the_folders_hold(project: Path) -> None:
    """Masks for some defects and 16-bit files reach every stage."""
    merged = read_json(project / "metrics/merge.json")
    assert merged["per_class"] == {"dent": DEFECTS, "scratch": DEFECTS}
    assert (merged["rejected"], merged["with_mask"]) == (0, 2 * (DEFECTS - UNMASKED))
    assert merged["levels"]["folder"]["high"] == DEEPEST
    assert read_json(project / "metrics/synthesize.json")["insertions"]["drawn"] == 4
    detector = read_json(project / "metrics/evaluate_efficientad.json")
    assert detector["image_auroc"] > 0.8
    assert detector["defective_without_mask"] > 0
    for model in ("vq", "maskgit"):
        card = read_json(project / f"models/{model}/config.json")
        assert card["levels"]["folder"]["high"] == DEEPEST
    bundle = read_json(project / "models/openvino/metadata.json")
    assert bundle["input"]["levels"] == {"low": 0.0, "high": float(DEEPEST), "clip": False}


def keeps_the_last_good_run(project: Path, environment: dict[str, str]) -> None:
    """A refused file stops the merge and costs nothing."""
    before = (project / "data/merged/samples.parquet").read_bytes()
    (project / "data/raw/dent/broken.png").write_text("no image")
    output = run(project, environment, ["dvc", "repro", "merge"], fails=True)
    assert "folder/dent/broken.png: unreadable image" in output
    assert (project / "data/merged/samples.parquet").read_bytes() == before
    assert (project / "metrics/merge.json").is_file()
