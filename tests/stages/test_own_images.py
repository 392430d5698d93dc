"""The profile for one's own images works as README and docs/data.md print it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from dvc.utils.hydra import compose_and_dump
from matplotlib.figure import Figure

from metaldefect.efficientad.torch_model import LAYERS
from metaldefect.inspection.provider import RealDatasetProvider
from pipeline.params import load_params
from pipeline.run import StageRun
from stages import (
    calibrate,
    evaluate_efficientad,
    evaluate_openvino,
    evaluate_synthesis,
    export_openvino,
    merge,
    synthesize,
    train_efficientad,
)
from tests.plant import write_plant
from tests.slim_detector import SLIM, save_slim_teacher
from tests.tiny_models import save_tiny_painter

ROOT = Path(__file__).resolve().parents[2]


class SilentRun(StageRun):
    """A stage's run that logs nothing."""

    def __init__(self) -> None:
        super().__init__("stage", "run", "hash", "")

    def log_metrics(self, metrics: object, prefix: str = "") -> None: ...

    def log_history(self, rows: object, step_key: str = "step") -> None: ...

    def log_figure(self, figure: Figure, name: str) -> None:
        plt.close(figure)

    def log_artifact(self, path: Path, folder: str | None = None) -> None: ...


def profile_in(page: str) -> str:
    """The only YAML block of a page."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def merge_with(profile: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the stage in `folder` with a profile; returns its metrics."""
    (folder / "conf/profile").mkdir(parents=True)
    for name in ("config.yaml", "profile/tiny.yaml"):
        shutil.copy(ROOT / "conf" / name, folder / "conf" / name)
    (folder / "conf/profile/mine.yaml").write_text(profile)
    plugins = str(folder / "plugins")
    compose_and_dump(folder / "params.yaml", str(folder / "conf"), None, "config", plugins, ["profile=mine"])
    monkeypatch.chdir(folder)
    return run_stages([merge])["merge"]


def run_stages(stages: Sequence[ModuleType]) -> dict[str, Any]:
    """Run stages in the current folder; returns their metrics by name."""
    params, found = load_params(), {}
    for stage in stages:
        stage.main(params, SilentRun())
        name = stage.__name__.removeprefix("stages.")
        found[name] = json.loads(Path(f"metrics/{name}.json").read_text())
    return found


def tiny(profile: str) -> str:
    """A profile with the sizes of the smoke run, and a detector that hardly learns."""
    smoke = profile.replace("# @package _global_", "# @package _global_\ndefaults: [tiny, _self_]")
    return f"{smoke}\ntrain_efficientad: {{steps: 2, penalty: false}}\n"


def test_the_profile_in_the_documentation(tmp_path, monkeypatch):
    write_plant(tmp_path / "data/raw/my-plant", defects=20, good=30)
    profile = profile_in("docs/data.md")
    metrics = merge_with(profile, tmp_path, monkeypatch)
    assert metrics["per_class"] == {"dent": 20, "scratch": 20}
    assert (metrics["rejected"], metrics["expectations_failed"], metrics["with_mask"]) == (0, 0, 20)
    assert metrics["levels"]["folder"]["high"] == 65535
    inspection = metrics["inspection"]
    assert (
        inspection["train"] + inspection["validation"] + inspection["canvas"] + inspection["test"]["good"]
        == 30
    )
    table = pd.read_parquet(tmp_path / "data/merged/samples.parquet")
    held_out = int((table["split"] == "test").sum())
    assert inspection["test"]["dent"] + inspection["test"]["scratch"] == held_out
    assert inspection["trained_on"] == 40 - held_out
    test = [
        item for item in RealDatasetProvider(Path("data/merged/inspection")).test() if item.label != "good"
    ]
    assert sum(item.mask is None for item in test) == inspection["without_mask"]
    assert any(item.mask is not None for item in test)


def test_good_images_alone(tmp_path, monkeypatch):
    write_plant(tmp_path / "data/raw/my-plant", defects=0, good=30)
    profile = profile_in("docs/data.md").replace("[dent, scratch]", "[good]")
    metrics = merge_with(profile, tmp_path, monkeypatch)
    assert metrics["per_class"] == {"good": 30}
    assert set(metrics["inspection"]["test"]) == {"good"}


def test_a_plant_with_other_names_for_its_folders(tmp_path, monkeypatch):
    plant = tmp_path / "data/raw/my-plant"
    write_plant(plant, defects=20, good=30)
    (plant / "good").rename(plant / "ok")
    shutil.copytree(plant / "dent", plant / "unsorted")
    profile = profile_in("docs/data.md")
    for section, names in (
        ("datasets: [{", "ignore: [ok, unsorted]"),
        ("inspection: {", "labels: {ok: good}, ignore: [unsorted]"),
    ):
        assert section in profile
        profile = profile.replace(section, f"{section}{names}, ")
    metrics = merge_with(profile, tmp_path, monkeypatch)
    assert metrics["per_class"] == {"dent": 20, "scratch": 20}
    found = metrics["inspection"]
    assert set(found["test"]) == {"good", "dent", "scratch"}
    assert found["train"] + found["validation"] + found["canvas"] + found["test"]["good"] == 30


def test_defects_without_any_mask_are_drawn_and_measured(tmp_path, monkeypatch):
    plant = tmp_path / "data/raw/my-plant"
    write_plant(plant, defects=12, good=12)
    shutil.rmtree(plant / "masks")
    for mask in plant.rglob("*_mask.png"):
        mask.unlink()
    metrics = merge_with(tiny(profile_in("docs/data.md")), tmp_path, monkeypatch)
    assert (metrics["total"], metrics["with_mask"]) == (24, 0)
    save_tiny_painter(Path("models/vq"), Path("models/maskgit"), ["dent", "scratch"])
    found = run_stages([synthesize, evaluate_synthesis])
    assert found["synthesize"]["insertions"]["drawn"] == 4
    measured = found["evaluate_synthesis"]
    assert measured["seams"]["left_out"]["real"] == "no image of the merged set has a mask"
    assert "kid" in measured


def test_good_images_alone_give_a_detector_and_a_bundle(tmp_path, monkeypatch):
    write_plant(tmp_path / "data/raw/my-plant", defects=0, good=30)
    profile = profile_in("docs/data.md").replace("[dent, scratch]", "[good]")
    merge_with(tiny(profile), tmp_path, monkeypatch)
    save_tiny_painter(Path("models/vq"), Path("models/maskgit"), ["good"])
    monkeypatch.setitem(LAYERS, "S", SLIM)
    Path("models/teacher").mkdir()
    save_slim_teacher(Path("models/teacher/teacher.safetensors"))
    found = run_stages([synthesize, evaluate_synthesis, train_efficientad, calibrate, evaluate_efficientad])
    assert found["synthesize"]["insertions"]["drawn"] == 0
    detector = found["evaluate_efficientad"]
    assert list(detector["left_out"]) == ["image and pixel metrics"]
    assert 0 <= detector["false_alarm_rate"] <= 1
    export_openvino.main(load_params(), SilentRun())
    assert list(Path("models/openvino/golden").glob("*_real.png"))
    exported = run_stages([evaluate_openvino])["evaluate_openvino"]
    assert "are not both good and defective" in exported["fp32"]["left_out"]
