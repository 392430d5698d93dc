"""The command line itself: help, exit codes, completion, and options that are the settings' keys."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import typing
from inspect import signature
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from metaldefect import cli as commands
from metaldefect.cli import run_app
from metaldefect.commands.settings import TrainSettings
from metaldefect.config import Config
from metaldefect.maskgit.training_config import MaskGITPretrainSettings
from metaldefect.tokenizer.training_config import PretrainSettings
from pipeline.cli import app

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "train", "calibrate", "detect", "serve", "sign", "anomalib", "distill", "pretrain", "draw", "insert",
    "review", "get-data", "doctor", "demo",
]  # fmt: skip
HEAVY = {
    "torch", "lightning", "openvino", "dvc", "mlflow", "prefect", "pandas", "scipy", "sklearn", "cv2",
    "gradio",
}  # fmt: skip


def metaldefect(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"} | variables
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], env=environment, capture_output=True, text=True
    )


def test_help_names_every_command() -> None:
    done = metaldefect("--help")
    assert done.returncode == 0, done.stderr
    assert [name for name in COMMANDS if name not in done.stdout] == []


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    """Each of these costs a tenth of a second or more, and help has to come at once."""
    script = (
        f"import sys; from pipeline.cli import app; app({arguments}, standalone_mode=False); "
        f"sys.exit(' '.join({HEAVY} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    context = typer.Context(get_command(app))
    command = get_command(app).get_command(context, name)  # type: ignore[attr-defined]
    assert command.help
    assert [option.name for option in command.params if not option.help] == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --config x.yaml --stepz 3", "No such option: --stepz"),
        ("train --config x.yaml --model L", "'L' is not one of"),
        ("train --minutes 3 --steps 4", "give either --minutes or --steps"),
        ("detect --model m --output o", "give either --image or --synthetic"),
        ("detect --model m --output o --image i --synthetic 1", "give either --image or --synthetic"),
        ("detect --model m --output o --synthetic 1 --watch", "--watch needs --image"),
        ("detect --model m --output i/o --image i", "--output i/o lies inside --image i"),
        (
            "detect --model m --output o --synthetic 0",
            "--synthetic': Input should be greater",
        ),
        ("distill --minutes 1 --output o --batch-size 0", "--batch-size: Input should be greater than 0"),
        ("insert --images a --output b --label c --at 3", "--at 3: expected x,y in whole pixels"),
        ("insert --images a --output a/b --label c", "--output a/b lies inside --images a"),
        (
            "insert --images a --output b --label c --method transplant",
            "method transplant needs defects",
        ),
        ("insert --images a --output b --label c --format bmp", "'bmp' is not one of"),
        ("draw --output b --label c --count 0", "--count: Input should be greater than 0"),
        (
            "pretrain tokenizer --minutes 1 --output o --image-size 8",
            "--image-size: Input should be greater than or equal to 16",
        ),
        ("pretrain maskgit --output o", "give --minutes or --images"),
        ("polish", "No such command 'polish'"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_names_what_is_wrong(
    command: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 160)
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_users_mistake_ends_with_1_and_one_line(tmp_path: Path) -> None:
    done = metaldefect("train", "--config", str(tmp_path / "none.yaml"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == f"metaldefect: {tmp_path / 'none.yaml'} does not exist: copy conf/efficientad.yaml"


def test_an_unknown_key_of_the_settings_is_named(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("source: synthetic\nsteps: 1\noutput: out\nstepz: 3\n")
    done = metaldefect("train", "--config", str(config))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "stepz: Extra inputs are not permitted" in done.stderr


def test_the_demo_gets_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(os, "execv", lambda *given: started.append(given))
    given = ["--root", "line3", "--compare", "a", "--compare", "b", "--port", "80", "--host", "::1"]
    assert CliRunner().invoke(app, ["demo", *given]).exit_code == 0
    options = ["--root", "line3", "--host", "::1", "--port", "80", "--compare", "a", "b"]
    assert started == [(sys.executable, [sys.executable, "-m", "app", *options])]


def test_the_shell_completes_commands() -> None:
    done = metaldefect(_METALDEFECT_COMPLETE="complete_bash", COMP_WORDS="metaldefect do", COMP_CWORD="1")
    assert done.stdout.split() == ["doctor"]


def test_options_of_train_are_keys_of_the_settings() -> None:
    hints = typing.get_type_hints(commands.train)
    options = hints.keys() - {"config", "return"}
    assert options <= TrainSettings.model_fields.keys()
    for name in options:
        if name in ("image_size", "false_alarms", "defect_share"):  # text such as 1%, which the settings read
            assert types_of(hints[name]) == {str}
            continue
        assert types_of(hints[name]) == types_of(TrainSettings.model_fields[name].annotation), name


def types_of(annotation: object) -> set[object]:
    """The types of a union without None; of a choice, its values as the command line spells them."""
    if typing.get_origin(annotation) is typing.Literal:
        return {str(value) for value in typing.get_args(annotation)}
    parts = set(typing.get_args(annotation)) - {type(None)}
    if typing.get_origin(annotation) is typing.Annotated:
        parts = {typing.get_args(annotation)[0]}  # without the limits
    return set[object]().union(*(types_of(part) for part in parts)) if parts else {annotation}


@pytest.mark.parametrize(
    ("name", "settings"), [("tokenizer", PretrainSettings), ("maskgit", MaskGITPretrainSettings)]
)
def test_pretraining_has_one_set_of_defaults(name: str, settings: type[Config]) -> None:
    (entry,) = (entry for entry in commands.pretraining.registered_commands if entry.name == name)
    assert entry.callback is not None
    defaults = {name: made.default for name, made in signature(entry.callback).parameters.items()}
    for key, value in settings():
        assert defaults[key] == value


def test_commands_show_no_third_party_warnings() -> None:
    noisy = logging.getLogger("torch.utils.cpp_extension")  # warns of a missing GPU
    noisy.setLevel(logging.NOTSET)
    commands = typer.Typer()
    commands.command("nothing")(lambda: None)

    with pytest.raises(SystemExit):
        run_app(commands, [])

    assert not noisy.isEnabledFor(logging.WARNING)
    assert noisy.isEnabledFor(logging.ERROR)


def test_a_path_that_cannot_be_used_is_named_without_a_traceback(
    tmp_path: Path,
) -> None:
    (tmp_path / "results").write_text("a file where the folder belongs")

    def write() -> None:
        (tmp_path / "results").mkdir()

    def read() -> None:
        (tmp_path / "nothing").read_bytes()  # a mistake of the program: a command checks what it is given

    commands = typer.Typer()
    commands.command("write")(write)
    commands.command("read")(read)
    with pytest.raises(SystemExit) as done:
        run_app(commands, ["write"])
    assert done.value.code == f"metaldefect: {tmp_path}/results: File exists"
    with pytest.raises(FileNotFoundError):
        run_app(commands, ["read"])
