"""dvc.yaml, the profiles and the layers are what they say they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump

from stages.params import Params, ParamsError, load_params, parse_params
from tests.project_imports import PACKAGES, ROOT, all_imports, direct_imports

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def composed(profile: str, tmp_path: Path) -> dict:
    target = tmp_path / "params.yaml"
    compose_and_dump(target, str(ROOT / "conf"), None, "config", str(tmp_path), [f"profile={profile}"])
    return yaml.safe_load(target.read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_it_runs(stage: str) -> None:
    deps = [ROOT / dep for dep in STAGES[stage]["deps"] if "$" not in dep]
    code = {path for path in all_imports(ROOT / f"stages/{stage}.py") if path.name != "__init__.py"}
    missing = [
        str(path.relative_to(ROOT))
        for path in sorted(code)
        if not any(path == dep or dep in path.parents for dep in deps)
    ]
    assert missing == []


@pytest.mark.parametrize("stage", STAGES)
def test_code_that_a_stage_depends_on_exists(stage: str) -> None:
    made = ("data/", "models/", "metrics/", "plots/")
    deps = [dep for dep in STAGES[stage]["deps"] if not dep.startswith(made) and "$" not in dep]
    assert [dep for dep in deps if not (ROOT / dep).exists()] == []


def test_stages_have_one_name_everywhere() -> None:
    assert list(STAGES) == [
        "sample", "merge", "augment", "finetune_vq", "tokenize", "train_maskgit", "synthesize",
        "distill_teacher", "train_efficientad", "export_openvino", "report",
    ]  # fmt: skip
    for stage, entry in STAGES.items():
        assert entry["cmd"] == f"python -m stages.{stage}"
        assert stage in Params.model_fields


def test_imports_never_point_up() -> None:
    allowed = {
        "metaldefect": {"metaldefect"},
        "stages": {"metaldefect", "stages"},
        "flows": {"metaldefect", "stages", "flows"},
        "app": {"metaldefect", "stages", "app"},
    }
    wrong = []
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for imported in direct_imports(file):
                if imported.relative_to(ROOT).parts[0] not in allowed[package]:
                    wrong.append(f"{file.relative_to(ROOT)} imports {imported.relative_to(ROOT)}")
    assert wrong == []


def test_the_library_knows_no_orchestration() -> None:
    words = (
        "import dvc",
        "from dvc",
        "import mlflow",
        "from mlflow",
        "import prefect",
        "from prefect",
        "params.yaml",
    )
    for file in (ROOT / "metaldefect").rglob("*.py"):
        text = file.read_text()
        found = [word for word in words if word in text]
        # The one mention: why hardware is not configured there
        assert found == (["params.yaml"] if file.name == "hardware.py" else []), file


def test_params_yaml_is_the_default_profile(tmp_path: Path) -> None:
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == composed("cpu", tmp_path)


@pytest.mark.parametrize("profile", ["cpu", "real", "paper", "tiny"])
def test_every_profile_is_valid(profile: str, tmp_path: Path) -> None:
    assert parse_params(composed(profile, tmp_path)).seed == 0


def test_wrong_params_are_named(tmp_path: Path) -> None:
    content = composed("cpu", tmp_path)
    content["train_maskgit"]["training"]["stepz"] = 3
    content["tokenize"]["batch_size"] = 0
    del content["synthesize"]["feather"]
    with pytest.raises(ParamsError) as error:
        parse_params(content)
    message = str(error.value)
    assert "train_maskgit.training.stepz: Extra inputs are not permitted" in message
    assert "tokenize.batch_size: Input should be greater than 0 (got 0)" in message
    assert "synthesize.feather: Field required" in message


def test_a_missing_params_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the project's root"):
        load_params(tmp_path / "params.yaml")


def test_the_generated_parts_of_the_readme_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.readme", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
