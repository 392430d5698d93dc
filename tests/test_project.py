"""dvc.yaml, the profiles and the layers are what they say they are."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump

from pipeline.code_files import is_code
from pipeline.dependencies import code_dependencies, direct_imports, has_code
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


def test_only_evaluation_and_the_report_depend_on_metrics_and_figures() -> None:
    for stage, entry in STAGES.items():
        listed = [dep for dep in entry["deps"] if is_code(dep)]
        shown = [
            dep for dep in listed if dep.endswith("figures.py") or dep.startswith("metaldefect/metrics/")
        ]
        if stage != "report" and not stage.startswith("evaluate_"):
            assert shown == [], stage


def test_a_package_with_code_in_its_init_is_a_dependency(tmp_path: Path) -> None:
    for folder in ("stages", "metaldefect/sub", "metaldefect/empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "stages/x.py").write_text("import metaldefect.sub.a\nfrom metaldefect.empty import b\n")
    (tmp_path / "metaldefect/sub/__init__.py").write_text('"""Doc."""\nVALUE = 1\n')
    (tmp_path / "metaldefect/sub/a.py").write_text("A = 1\n")
    (tmp_path / "metaldefect/empty/__init__.py").write_text('"""Only words."""\n')
    (tmp_path / "metaldefect/empty/b.py").write_text("B = 1\n")
    assert code_dependencies(tmp_path, "x") == [
        "metaldefect/empty/b.py", "metaldefect/sub/__init__.py", "metaldefect/sub/a.py", "stages/x.py",
    ]  # fmt: skip


def test_stages_have_one_name_everywhere() -> None:
    assert list(STAGES) == [
        "sample", "merge", "augment", "finetune_vq", "evaluate_vq", "tokenize", "train_maskgit",
        "evaluate_maskgit", "synthesize", "evaluate_synthesis", "distill_teacher", "train_efficientad",
        "calibrate", "evaluate_efficientad", "export_openvino", "evaluate_openvino", "report",
    ]  # fmt: skip
    for stage, entry in STAGES.items():
        assert entry["cmd"] == f"python -m stages.{stage}"
        assert stage in Params.model_fields
        assert (ROOT / f"stages/{stage}.py").is_file()


def test_nothing_imports_from_stages_but_their_tests() -> None:
    wrong = []
    for package in ("metaldefect", "pipeline", "flows", "app", "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            wrong += [f for f in direct_imports(ROOT, file) if f.relative_to(ROOT).parts[0] == "stages"]
    assert wrong == []


def test_models_are_registered_and_curves_are_plotted() -> None:
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    outs = {out for entry in STAGES.values() for out in entry["outs"] if isinstance(out, str)}
    assert set(pipeline["artifacts"]) == {"tokenizer", "maskgit", "detector"}
    for artifact in pipeline["artifacts"].values():
        assert artifact["path"] in outs
        assert artifact["type"] == "model"
        assert artifact["desc"]
        assert artifact["labels"]
    for plot in pipeline["plots"]:
        ((_, options),) = plot.items()
        assert {"x", "y", "title", "x_label", "y_label"} == set(options)
        for path in options["y"]:
            assert any(path.startswith(f"{out}/") for out in outs), path
    assert not any("metrics" in entry or "plots" in entry for entry in STAGES.values())


def test_imports_never_point_up() -> None:
    allowed = {
        "metaldefect": {"metaldefect"},
        "pipeline": {"metaldefect", "pipeline"},
        "flows": {"metaldefect", "pipeline", "flows"},
        "app": {"metaldefect", "pipeline", "app"},
        "benchmarks": {"metaldefect", "pipeline", "app", "benchmarks"},  # of one floor: it measures the demo
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


def test_the_version_is_not_that_of_a_release() -> None:
    """A manifest names its version: code that changed since a release must not call itself that release."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert "0.1.0" in headings[1:]
    assert version not in headings
