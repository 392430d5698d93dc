"""dvc.yaml, the profiles and the layers are what they say they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump

from pipeline.dependencies import code_dependencies, direct_imports, has_code, is_code
from pipeline.params import Params, ParamsError, load_params, parse_params

ROOT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def composed(profile: str, tmp_path: Path) -> dict:
    target = tmp_path / "params.yaml"
    compose_and_dump(target, str(ROOT / "conf"), None, "config", str(tmp_path), [f"profile={profile}"])
    return yaml.safe_load(target.read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_it_imports(stage: str) -> None:
    listed = [dep for dep in STAGES[stage]["deps"] if is_code(dep)]
    needed = code_dependencies(ROOT, stage)
    assert [dep for dep in needed if dep not in listed] == [], "missing: run `make deps`"
    assert [dep for dep in listed if dep not in needed] == [], "superfluous: run `make deps`"


def test_stages_have_one_name_everywhere() -> None:
    assert list(STAGES) == [
        "sample", "merge", "augment", "finetune_vq", "tokenize", "train_maskgit", "synthesize",
        "distill_teacher", "train_efficientad", "calibrate", "evaluate_efficientad", "export_openvino",
        "evaluate_openvino", "report",
    ]  # fmt: skip
    for stage, entry in STAGES.items():
        assert entry["cmd"] == f"python -m stages.{stage}"
        assert stage in Params.model_fields


def test_imports_never_point_up() -> None:
    allowed = {
        "metaldefect": {"metaldefect"},
        "pipeline": {"metaldefect", "pipeline"},
        "flows": {"metaldefect", "pipeline", "flows"},
        "app": {"metaldefect", "pipeline", "app"},
        "benchmarks": {"metaldefect", "pipeline", "benchmarks"},
    }
    wrong = []
    for package, lower in allowed.items():
        for file in (ROOT / package).rglob("*.py"):
            for imported in direct_imports(ROOT, file):
                if imported.relative_to(ROOT).parts[0] not in lower:
                    wrong.append(f"{file.relative_to(ROOT)} imports {imported.relative_to(ROOT)}")
    for file in (ROOT / "stages").rglob("*.py"):
        for imported in direct_imports(ROOT, file) - {file}:
            if imported.relative_to(ROOT).parts[0] not in {"metaldefect", "pipeline"} and has_code(imported):
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
