"""`make` in a folder whose path has spaces, with recorders in place of the real tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.headline import HEADLINE

ROOT = Path(__file__).parents[1]
# One write per call, because `make ui` runs two tools at once
RECORDER = r"""#!/bin/sh
printf '%s\n' "$(basename "$0")$(printf ' [%s]' "$@")" >> calls
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder whose environment is made; its tools write their arguments to `calls`."""
    folder = tmp_path / "my metal project"
    tools = folder / ".venv/bin"
    tools.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "dvc", "ruff", "mypy", "metaldefect", "mlflow", "prefect"):
        (tools / name).write_text(RECORDER)
        (tools / name).chmod(0o755)
    (folder / ".venv/.installed").touch()
    return folder


def make(folder: Path, *arguments: str) -> list[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", *arguments], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = folder / "calls"
    return calls.read_text().splitlines() if calls.is_file() else done.stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (["lint"], ["ruff [check] [.]", "ruff [format] [--check] [.]", "mypy []"]),
        (["deps"], ["python [-m] [pipeline.dependencies]"]),
        (["doctor"], ["metaldefect [doctor]"]),
        (["rollback"], ["metaldefect [rollback]"]),
        (["retrain"], ["python [-m] [flows.run] [--retrain]"]),
        (["data", "FROM=/media/my disk"], ["metaldefect [get-data] [--from] [/media/my disk]"]),
    ],
    ids=lambda value: value[0],
)
def test_targets_run_in_a_folder_with_spaces(project: Path, arguments: list[str], calls: list[str]) -> None:
    assert make(project, *arguments) == calls


def test_the_environment_is_made_in_a_folder_with_spaces(project: Path) -> None:
    (project / ".venv/.installed").unlink()
    calls = make(project, "setup", "PYTHON=.venv/bin/python")
    assert (
        "python [-m] [pip] [install] [--quiet] [--disable-pip-version-check]"
        " [-c] [constraints.txt] [-e] [.[dev]]"
    ) in calls
    assert (project / ".venv/.installed").is_file()


def test_a_locked_environment_takes_files_with_known_hashes_alone(project: Path) -> None:
    (project / ".venv/.installed").unlink()
    calls = make(project, "setup", "PYTHON=.venv/bin/python", "LOCKED=1")
    pip = "python [-m] [pip] [install] [--quiet] [--disable-pip-version-check]"
    assert [call for call in calls if call.startswith(pip)] == [
        f"{pip} [--require-hashes] [-r] [requirements.lock]",
        f"{pip} [--no-deps] [-e] [.]",
    ]


def test_clean_removes_what_runs_made_and_nothing_that_others_put_there(project: Path) -> None:
    made = ("data/sample/NEU-DET/a.jpg", "data/sample/inspection/a.png", "data/merged/a", "models/vq/a")
    for name in (*made, "data/sample/mine/photo.jpg", "models/serving/a", "data/raw/a"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    make(project, "clean")
    left = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert left >= {"data/sample/mine/photo.jpg", "models/serving/a", "data/raw/a"}
    assert not left & set(made)
    (project / "data/sample/mine/photo.jpg").unlink()
    (project / "data/sample/mine").rmdir()
    make(project, "clean")
    assert not (project / "data/sample").exists()


def test_help_lists_every_target(project: Path) -> None:
    text = "\n".join(make(project))
    for target in ("setup", "data", "repro", "test", "lint", "doctor", "clean"):
        assert f"  {target} " in text


MLFLOW = "mlflow [server] [--backend-store-uri] [%s] [--host] [127.0.0.1] [--port] [5000]"


@pytest.mark.parametrize(
    ("uri", "started"),
    [
        ("", [MLFLOW % "sqlite:///mlruns/mlflow.db"]),
        ("postgresql://mlflow@db/mlflow", [MLFLOW % "postgresql://mlflow@db/mlflow"]),
        ("https://mlflow.plant", []),
    ],
)
def test_pages_are_those_of_the_store_that_the_environment_names(
    project: Path, uri: str, started: list[str]
) -> None:
    variables = os.environ | {"MLFLOW_TRACKING_URI": uri}
    # A session of its own, because the target ends its whole process group
    subprocess.run(["make", "ui"], cwd=project, env=variables, capture_output=True, start_new_session=True)
    links, *servers = (project / "calls").read_text().splitlines()
    assert links == "python [-m] [pipeline.mlflow_view]"
    prefect = "prefect [server] [start] [--host] [127.0.0.1] [--port] [4200]"
    assert sorted(servers) == [*started, prefect]


def test_experiments_fit_on_a_screen(toy: Path, environment: dict[str, str]) -> None:
    (toy / ".venv/bin").mkdir(parents=True)
    (toy / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (toy / ".venv/bin/python").chmod(0o755)
    shutil.copy(ROOT / "Makefile", toy)
    (toy / "params.yaml").write_text(yaml.safe_dump({"first": {f"value_{n}": n for n in range(300)}}))
    script = toy / "make.py"
    metrics = json.dumps(dict.fromkeys(HEADLINE, 0.9712) | {"first": {"of": "many"}})
    script.write_text(script.read_text().replace('{"total": 12345}', metrics))
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (
        [sys.executable, "-m", "dvc", "repro", "-q"],
        ["git", "add", "--all"],
        ["git", *identity, "commit", "--quiet", "--message", "run"],
    ):
        subprocess.run(command, cwd=toy, env=environment, check=True)

    def columns(*command: str) -> list[str]:
        done = subprocess.run(
            command, cwd=toy, env=environment | {"COLUMNS": "120"}, capture_output=True, text=True, check=True
        )
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        assert all(len(line) <= 120 for line in lines) or command[0] != "make"
        return next(line for line in lines if "Experiment" in line).replace(",", " ").split()

    alone = columns(sys.executable, "-m", "dvc", "exp", "show", "--csv")
    assert len(alone) > 300
    shown = ["image_auroc", "au_pro", "f1_at_threshold", "ssim", "cas_ratio", "kid_ratio"]
    found = columns("make", "-o", ".venv/.installed", "experiments")
    assert (found[:2], sorted(found[2:])) == (["Experiment", "Created"], sorted(shown))
    chosen = columns("make", "-o", ".venv/.installed", "experiments", "SHOWN=first.value_1")
    assert chosen == ["Experiment", "Created", "first.value_1"]


def test_weights_beside_the_project_are_found_by_their_whole_path(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METALDEFECT_WEIGHTS", raising=False)
    (project.parent / "shared/weights").mkdir(parents=True)
    (project / ".venv/bin/metaldefect").write_text('#!/bin/sh\necho "$METALDEFECT_WEIGHTS" > calls\n')
    (found,) = make(project, "doctor")
    assert Path(found).resolve() == project.parent / "shared/weights"
