"""A user's error is one line; a mistake in the code keeps its traceback, whatever its type."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from metaldefect.errors import UserError, exit_on_user_error

ROOT = Path(__file__).parents[1]

STAGE = """
from metaldefect.errors import UserError
from pipeline.run import run_stage

def planted(params, run):
    raise {error}

run_stage("report", planted)
"""

COMMAND = """
import metaldefect.commands.detect
from pipeline.cli import main
from metaldefect.errors import UserError

def planted(*arguments):
    raise {error}

metaldefect.commands.detect.load_model = planted
main(["detect", "--model", "models/none", "--synthetic", "1", "--output", "out"])
"""

GET_DATA = """
import pipeline.get_data
from metaldefect.errors import UserError
from pipeline.cli import main

def planted(*arguments):
    raise {error}

pipeline.get_data.get_data = planted
main(["get-data"])
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a folder that holds the project's `params.yaml` and `dvc.yaml`."""
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    variables.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=variables, capture_output=True, text=True
    )


@pytest.mark.parametrize("program", [STAGE, COMMAND, GET_DATA], ids=["stage", "command", "get_data"])
def test_a_planted_value_error_keeps_its_traceback(program: str, tmp_path: Path) -> None:
    done = run(program.format(error="ValueError('planted mistake')"), tmp_path)

    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "in planted" in done.stderr
    assert "ValueError: planted mistake" in done.stderr


@pytest.mark.parametrize("mistake", [ValueError, FileNotFoundError, KeyError, AssertionError, RuntimeError])
def test_only_user_errors_are_caught(mistake: type[Exception]) -> None:
    with pytest.raises(mistake), exit_on_user_error("merge"):
        raise mistake("planted")

    with pytest.raises(SystemExit, match=r"^merge: a\.png is empty$"), exit_on_user_error("merge"):
        raise UserError("a.png is empty")


def test_no_handler_of_other_errors_takes_a_user_error_for_its_own() -> None:
    assert UserError.__mro__ == (UserError, Exception, BaseException, object)


@pytest.mark.parametrize("program", [STAGE, COMMAND, GET_DATA], ids=["stage", "command", "get_data"])
def test_a_users_error_is_one_line_without_a_traceback(program: str, tmp_path: Path) -> None:
    done = run(program.format(error="UserError('a.png is empty: take another copy')"), tmp_path)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith("a.png is empty: take another copy")


@pytest.mark.parametrize("program", [STAGE, COMMAND, GET_DATA], ids=["stage", "command", "get_data"])
def test_a_full_disk_is_one_sentence_without_a_traceback(program: str, tmp_path: Path) -> None:
    full = "OSError(28, 'No space left on device', 'data/merged')"
    done = run(program.format(error=full), tmp_path)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith(": the disk of data/merged is full (No space left on device): free some space")
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "a.png"),
            "the disk of a.png is full (Disk quota exceeded): free some space",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.png", None, b"copies/a.png"),
            "the disk of copies/a.png is full (No space left on device): free some space",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device, 8 MB wanted", f"{tempfile.gettempdir()}/a"),
            f"the disk of {tempfile.gettempdir()}/a is full (No space left on device, 8 MB wanted):"
            " free some space, or set TMPDIR to a folder on another disk",
        ),
        (
            RuntimeError("(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT]"),
            "a disk is full (database or disk is full): free some space",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "a disk is full (No usable temporary directory found in ['/tmp']):"
            " free some space, or set TMPDIR to a folder on another disk",
        ),
    ],
    ids=["quota", "copy", "temporary", "sqlite", "nowhere"],
)
def test_a_full_disk_is_named_with_what_to_do(error: Exception, sentence: str) -> None:
    with pytest.raises(SystemExit) as end, exit_on_user_error("merge"):
        raise error
    assert end.value.code == f"merge: {sentence}"


def test_a_users_error_shows_its_traceback_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METALDEFECT_TRACEBACK", "1")

    with pytest.raises(SystemExit), exit_on_user_error("merge"):
        raise UserError("a.png is empty")

    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "metaldefect.errors.UserError: a.png is empty"
