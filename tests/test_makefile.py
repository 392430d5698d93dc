"""`make` in a folder whose path has spaces, with recorders in place of the real tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDER = '#!/bin/sh\nprintf "%s" "$(basename "$0")" >> calls\nprintf " [%s]" "$@" >> calls\necho >> calls\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder whose environment is made; its tools write their arguments to `calls`."""
    folder = tmp_path / "my metal project"
    tools = folder / ".venv/bin"
    tools.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "dvc", "ruff", "mypy", "metaldefect"):
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


def test_help_lists_every_target(project: Path) -> None:
    text = "\n".join(make(project))
    for target in ("setup", "data", "repro", "test", "lint", "doctor", "clean"):
        assert f"  {target} " in text


def test_weights_beside_the_project_are_found_by_their_whole_path(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METALDEFECT_WEIGHTS", raising=False)
    (project.parent / "shared/weights").mkdir(parents=True)
    (project / ".venv/bin/metaldefect").write_text('#!/bin/sh\necho "$METALDEFECT_WEIGHTS" > calls\n')
    (found,) = make(project, "doctor")
    assert Path(found).resolve() == project.parent / "shared/weights"
