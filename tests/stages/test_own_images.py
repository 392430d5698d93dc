"""The profile for one's own images in docs/data.md works as it stands there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from dvc.utils.hydra import compose_and_dump
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.params import load_params
from stages import merge

ROOT = Path(__file__).resolve().parents[2]


class SilentRun:
    """Stands in for the MLflow run."""

    def log_metrics(self, metrics: object) -> None: ...

    def log_artifact(self, path: Path, folder: str) -> None: ...


def draw(path: Path, key: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = gaussian_filter(np.random.default_rng(key).normal(size=(64, 64)), 3)
    Image.fromarray(np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)).save(path)


def test_the_profile_in_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "conf/profile/own.yaml").write_text(blocks[0])
    params_file = tmp_path / "params.yaml"
    compose_and_dump(
        params_file, str(tmp_path / "conf"), None, "config", str(tmp_path / "plugins"), ["profile=own"]
    )
    for c, label in enumerate(("dent", "scratch", "rust")):
        for k in range(8):
            draw(tmp_path / f"data/raw/my-images/{label}/{k}.png", 100 * c + k)
    for k in range(8):
        draw(tmp_path / f"data/raw/my-inspection/train/good/{k}.png", 1000 + k)
    for kind in ("good", "dent"):
        draw(tmp_path / f"data/raw/my-inspection/test/{kind}/0.png", 2000 + len(kind))
    mask = tmp_path / "data/raw/my-inspection/ground_truth/dent/0_mask.png"
    mask.parent.mkdir(parents=True)
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(mask)
    monkeypatch.chdir(tmp_path)
    merge.main(load_params(params_file), SilentRun())  # type: ignore[arg-type]
    metrics = json.loads((tmp_path / "metrics/merge.json").read_text())
    assert metrics["per_class"] == {"dent": 8, "scratch": 8}
    assert metrics["inspection"]["test"] == {"dent": 1, "good": 1}
    assert (metrics["rejected"], metrics["expectations_failed"]) == (0, 0)
