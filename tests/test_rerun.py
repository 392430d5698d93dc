"""Messages name the command that runs the pipeline where the user stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaldefect.commands.models import require_models
from metaldefect.errors import UserError
from metaldefect.rerun import repro_command
from pipeline.profiles import OWN
from pipeline.report.page import rerun_command

REPOSITORY = Path(__file__).parents[1]


def test_a_project_without_this_makefile_is_run_by_dvc(tmp_path: Path) -> None:
    assert repro_command(REPOSITORY) == "make repro"
    assert repro_command(tmp_path) == "dvc repro"
    (tmp_path / "Makefile").write_text("build:\n\techo repro: done\n")
    assert repro_command(tmp_path) == "dvc repro"
    (tmp_path / "Makefile").write_bytes("# Prüfung\nrepro:\n".encode("latin-1"))
    assert repro_command(tmp_path) == "make repro"


def test_missing_models_name_the_command_that_trains_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, command in ((tmp_path, "dvc repro"), (REPOSITORY, "make repro")):
        monkeypatch.chdir(folder)
        with pytest.raises(UserError, match=f"`{command}` trains them"):
            require_models(tmp_path / "vq", tmp_path / "maskgit", "")


def test_a_report_names_the_command_that_makes_it_again(tmp_path: Path) -> None:
    assert rerun_command(tmp_path, OWN) == "dvc repro"
    assert rerun_command(REPOSITORY, "cpu") == "make repro PROFILE=cpu"
    # `make repro` would overwrite params.yaml with a profile
    assert rerun_command(REPOSITORY, OWN).startswith(".venv/bin/python -m dvc repro")
