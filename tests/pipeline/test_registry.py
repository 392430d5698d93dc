"""The registry follows the links, and the store survives a move of the project."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.exceptions import MlflowException

from metaldefect.deploy.bundle import bundle_version
from metaldefect.deploy.runtime import Detector
from metaldefect.image_files import Levels
from metaldefect.images import Channels
from pipeline.champion import hold, promote, rollback
from pipeline.registry import DETECTOR, find, follow_links, register
from pipeline.run import connect_tracking, git_commit
from tests.deploy.conftest import DEEP_LEVELS, export_slim
from tests.slim_detector import SIZE, noise

FRAMES = np.random.default_rng(0).integers(0, 255, (2, 128, 128), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 255, (4, 128, 128, 3), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(300, 4300, (2, 128, 128), dtype=np.uint16)


def verdict(name: str, before: str | None = None) -> dict[str, Any]:
    return {
        "verdict": name,
        "reason": "made up",
        "gate_md5": "abc",
        "gate": {"precision": "fp32"},
        "holdout": {"sha256": "def"},
        "champion": {"version": before} if before else None,
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give_store: Callable[[Path], None]) -> Path:
    root = tmp_path / "a project"
    (root / "models/vq").mkdir(parents=True)
    (root / "models/vq/weights.txt").write_text("codes")
    lock = {
        "finetune_vq": {"outs": [{"path": "models/vq", "md5": "11.dir"}]},
        "merge": {"outs": [{"path": "data/merged", "md5": "22.dir"}]},
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    give_store(root)
    monkeypatch.chdir(root)
    return root


def new_run() -> str:
    connect_tracking()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("metaldefect")
    assert experiment is not None
    return str(client.create_run(experiment.experiment_id).info.run_id)


def aliases() -> dict[str, str]:
    found = mlflow.MlflowClient().get_registered_model(DETECTOR).aliases
    return {alias: str(number) for alias, number in found.items()}


def test_versions_aliases_and_a_copied_project(
    project: Path, planted: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.registry.git_commit", lambda: "c" * 40)
    run = new_run()
    promote(project, planted["half_blind"], {})
    assert register(project, project, planted["half_blind"], run, verdict("PROMOTE")) == "1"
    hold(project, planted["good"])
    before = bundle_version(planted["half_blind"])
    assert register(project, project, planted["good"], new_run(), verdict("HOLD", before)) == "2"
    # a second verdict on the same bundle makes no second version
    assert register(project, project, planted["good"], new_run(), verdict("HOLD", before)) == "2"

    client = mlflow.MlflowClient()
    assert aliases() == {"champion": "1", "challenger": "2"}
    tags = client.get_model_version(DETECTOR, "2").tags
    assert tags["bundle"] == bundle_version(planted["good"])
    assert (tags["verdict"], tags["gate_md5"], tags["previous_champion"]) == ("HOLD", "abc", before)
    assert (tags["data.md5"], tags["metaldefect-tokenizer"]) == ("22.dir", "1")
    lock = hashlib.md5((project / "dvc.lock").read_bytes()).hexdigest()
    origin = {"git.commit": "c" * 40, "dvc.lock_md5": lock, "data.md5": "22.dir"}
    assert origin.items() <= tags.items()
    tokenizer = client.get_model_version("metaldefect-tokenizer", "1").tags
    assert tokenizer == {"dvc.md5": "11.dir"} | origin
    assert client.get_run(run).data.tags["verdict"] == "PROMOTE"

    promote(project, project / "models/challenger", {"reason": "by hand"})
    assert follow_links(project) == {"champion": "2", "challenger": None}
    assert aliases() == {"champion": "2"}
    rollback(project)
    assert follow_links(project)["champion"] == "1"

    copied = Path(shutil.copytree(project, tmp_path / "copy", symlinks=True))
    project.rename(tmp_path / "gone")
    monkeypatch.chdir(copied)
    connect_tracking()
    loaded = mlflow.pyfunc.load_model(f"models:/{DETECTOR}@champion")
    signature = loaded.metadata.signature
    (frames,) = signature.inputs.to_dict()
    assert frames["tensor-spec"] == {"dtype": "uint8", "shape": (-1, -1, -1)}
    assert signature.outputs.input_dict().keys() == {"score", "is_anomalous"}
    expected = Detector.load(planted["half_blind"], "fp32").predict_batch(list(FRAMES))
    found = loaded.predict(FRAMES)
    np.testing.assert_allclose(found["score"], [item.score for item in expected], atol=1e-5)
    assert found["is_anomalous"].tolist() == [item.is_anomalous for item in expected]
    assert find(bundle_version(planted["half_blind"])) == "1"
    # a new run of the copy writes into the copy
    mlflow.MlflowClient().log_text(new_run(), "text", "note.txt")
    assert len(list(copied.glob("mlruns/artifacts/*/artifacts/note.txt"))) == 1
    assert not project.exists()


@pytest.mark.parametrize(
    ("channels", "levels", "frames", "spec"),
    [
        (3, None, COLOURS, {"dtype": "uint8", "shape": (-1, -1, -1, 3)}),
        (1, DEEP_LEVELS, DEEP, {"dtype": "uint16", "shape": (-1, -1, -1)}),
    ],
    ids=["colour", "16 bits"],
)
def test_frames_of_colour_and_of_16_bits_are_scored(
    project: Path,
    tmp_path: Path,
    channels: Channels,
    levels: Levels | None,
    frames: np.ndarray,
    spec: dict[str, Any],
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    known = COLOURS if channels == 3 else noise(4)
    export_slim(bundle, known, SIZE, channels, levels)
    register(project, project, bundle, new_run(), verdict("HOLD"))

    loaded = mlflow.pyfunc.load_model(f"models:/{DETECTOR}/1")

    (stated,) = loaded.metadata.signature.inputs.to_dict()
    assert stated["tensor-spec"] == spec
    expected = Detector.load(bundle, "fp32").predict_batch(list(frames))
    found = loaded.predict(frames)
    np.testing.assert_allclose(found["score"], [item.score for item in expected], atol=1e-5)
    with pytest.raises(MlflowException, match=r"does not match expected (shape|dtype)"):
        loaded.predict(FRAMES)


def test_a_store_with_absolute_paths_is_made_relative(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier version wrote, in a folder that no longer exists."""
    mlflow.set_tracking_uri("sqlite:///mlruns/mlflow.db")
    mlflow.create_experiment("metaldefect", artifact_location=str(project / "mlruns/artifacts"))
    mlflow.set_experiment("metaldefect")
    with mlflow.start_run() as run:
        mlflow.log_text("old text", "old.txt")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # MLflow sets it
    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    connect_tracking()
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/old.txt") == "old text"
    mlflow.MlflowClient().log_text(new_run(), "text", "new.txt")
    assert len(list(moved.glob("mlruns/artifacts/*/artifacts/new.txt"))) == 1


def test_a_commit_is_dirty_by_code_not_by_what_a_run_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_commit() == "unknown"
    outs = ["data/made", {"metrics/a.json": {"cache": False}}]
    files = {
        "dvc.yaml": yaml.safe_dump({"stages": {"a": {"cmd": "a", "outs": outs}}}),
        "dvc.lock": "1",
        "metrics/a.json": "1",
        "code.py": "1",
        "data/made/x": "1",
    }
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], check=True)
    identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    subprocess.run(["git", *identity, "commit", "-qm", "x"], check=True)
    clean = git_commit()
    assert len(clean) == 40
    for name in ("dvc.lock", "metrics/a.json", "data/made/x"):
        Path(name).write_text("2")
    Path("untracked.txt").write_text("1")
    assert git_commit() == clean
    Path("code.py").write_text("2")
    assert git_commit() == f"{clean}-dirty"
