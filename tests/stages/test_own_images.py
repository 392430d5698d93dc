"""The profile for one's own images works as README and docs/data.md print it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc.utils.hydra import compose_and_dump

from metaldefect.inspection.provider import RealDatasetProvider
from pipeline.params import load_params
from stages import merge
from tests.plant import write_plant

ROOT = Path(__file__).resolve().parents[2]


class SilentRun:
    """Stands in for the MLflow run."""

    def log_metrics(self, metrics: object) -> None: ...

    def log_artifact(self, path: Path, folder: str) -> None: ...


def profile_in(page: str) -> str:
    """The only YAML block of a page."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def merge_with(profile: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the stage in `folder` with a profile; returns its metrics."""
    (folder / "conf/profile").mkdir(parents=True)
    (folder / "conf/config.yaml").write_text((ROOT / "conf/config.yaml").read_text())
    (folder / "conf/profile/mine.yaml").write_text(profile)
    plugins = str(folder / "plugins")
    compose_and_dump(folder / "params.yaml", str(folder / "conf"), None, "config", plugins, ["profile=mine"])
    monkeypatch.chdir(folder)
    merge.main(load_params(folder / "params.yaml"), SilentRun())  # type: ignore[arg-type]
    found: dict[str, Any] = json.loads((folder / "metrics/merge.json").read_text())
    return found


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
