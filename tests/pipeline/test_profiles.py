"""params.yaml follows the profile that is asked for, and what it held before is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from metaldefect.errors import UserError
from metaldefect.tokenizer.config import named_config
from pipeline.params import Params, ParamsError, parse_params
from pipeline.profiles import changes, composed_text, main, profile_name, profiles, write_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "a folder with spaces"
    shutil.copytree(ROOT / "conf", root / "conf")
    shutil.copy(ROOT / "params.yaml", root)
    return root


def test_a_profile_and_then_the_default_leave_params_as_committed(folder: Path) -> None:
    committed = (ROOT / "params.yaml").read_bytes()
    changed = write_params(folder, "tiny")
    assert "sample.neu_det: 60 -> 20" in changed
    assert yaml.safe_load((folder / "params.yaml").read_text())["sample"]["neu_det"] == 20
    write_params(folder, "cpu")
    assert (folder / "params.yaml").read_bytes() == committed
    assert write_params(folder, "cpu") == []


def test_a_value_changed_by_hand_is_replaced_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("seed: 0", "seed: 7"))
    monkeypatch.chdir(folder)
    assert main([]) == 0
    assert "now holds the profile cpu; 1 values changed:\n  seed: 7 -> 0" in capsys.readouterr().out
    assert (folder / "params.yaml").read_text() == text


def test_photographs_that_are_not_there_come_from_installed_packages(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def chosen() -> list[object]:
        params = yaml.safe_load((folder / "params.yaml").read_text())
        return [params[stage]["natural"] for stage in ("distill_teacher", "train_efficientad")]

    monkeypatch.chdir(folder)
    assert main(["real"]) == 0
    assert capsys.readouterr().out.startswith("data/raw/imagenet_sample_256: not there; photographs of inst")
    assert chosen() == [None, None]
    assert profile_name(Path("params.yaml"), Path("conf")) == "real"
    (folder / "data/raw/imagenet_sample_256").mkdir(parents=True)
    assert main(["real"]) == 0
    assert "not there;" not in capsys.readouterr().out
    assert chosen() == ["data/raw/imagenet_sample_256"] * 2
    assert profile_name(Path("params.yaml"), Path("conf")) == "real"


def test_an_unknown_profile_lists_those_there_are(folder: Path) -> None:
    with pytest.raises(ParamsError, match=r"no profile 'tinny': .* has cpu, paper, real, real128, tiny"):
        write_params(folder, "tinny")
    assert profiles(folder / "conf") == ["cpu", "paper", "real", "real128", "tiny"]


@pytest.mark.parametrize("text", ["a: [1", "sample: 3\n", "defaults: [nowhere]\n"])
def test_a_profile_that_somebody_is_still_writing_disturbs_no_other(folder: Path, text: str) -> None:
    (folder / "conf/profile/another.yaml").write_text(f"# @package _global_\n{text}")
    assert profile_name(folder / "params.yaml", folder / "conf") == "cpu"
    with pytest.raises(UserError, match="another"):
        write_params(folder, "another")


def test_a_full_disk_is_no_fault_of_a_profile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.profiles.compose_and_dump", full)
    with pytest.raises(OSError, match="No space left"):
        profile_name(folder / "params.yaml", folder / "conf")


def params_of(profile: str) -> Params:
    return parse_params(yaml.safe_load(composed_text(ROOT / "conf", profile)))


def test_the_real_profile_starts_from_the_shipped_pair() -> None:
    real, default = params_of("real"), params_of("cpu")
    for params in (real, default):
        assert params.finetune_vq.tokenizer.base == "shipped"
        assert params.finetune_vq.training.mode == "decoder_only"
        assert params.train_maskgit.base == "shipped"
    assert real.finetune_vq.tokenizer == default.finetune_vq.tokenizer
    assert sum(real.merge.expected_counts.values()) == 2659
    seen = real.train_maskgit.training.steps * real.train_maskgit.training.batch_size
    assert seen > 9 * default.train_maskgit.training.steps * default.train_maskgit.training.batch_size


@pytest.mark.parametrize("profile", profiles(ROOT / "conf"))
def test_a_profile_that_starts_from_the_shipped_maskgit_keeps_the_codes_it_knows(profile: str) -> None:
    params = params_of(profile)
    section = params.finetune_vq
    named_config(section.tokenizer.name, section.tokenizer.codebook_size).grid(section.tokenizer.image_size)
    if params.train_maskgit.base == "shipped":
        assert section.tokenizer.base == "shipped"
        assert section.training.mode in ("decoder_only", "slow_codebook")


def test_changes_name_values_that_come_and_go() -> None:
    assert changes({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "d": None}}) == [
        "a.b: 1 -> 3",
        "a.c: 2 -> (not there)",
        "a.d: (not there) -> None",
    ]


# Stands in for `dvc`: keeps the params that each run finds, `1.yaml`, `2.yaml`, ...
DVC = """#!/bin/sh
[ "$*" = repro ] && mkdir -p ran && cp params.yaml "ran/$(($(ls ran | wc -l) + 1)).yaml"
"""


@pytest.mark.parametrize("command", ["make", "python"])
def test_a_profile_and_then_the_default_run_with_their_own_params_and_leave_no_change(
    folder: Path, command: str
) -> None:
    """The Makefile's own recipe in a folder with spaces, and the commands that it consists of."""
    shutil.copy(ROOT / "Makefile", folder)
    tools = folder / ".venv/bin"
    tools.mkdir(parents=True)
    (tools / "dvc").write_text(DVC)
    # The environment's Python composes for real and hands only DVC to the stand-in
    (tools / "python").write_text(
        f'#!/bin/sh\n[ "$2" = dvc ] && shift 2 && exec dvc "$@"\nexec "{sys.executable}" "$@"\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tools.parent / ".installed").touch()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def repro(*profile: str) -> str:
        if command == "make":
            return run("make", "-o", ".venv/.installed", "repro", *(f"PROFILE={name}" for name in profile))
        return run("python", "-m", "pipeline.profiles", *profile) + run("dvc", "repro")

    run("git", "init", "-q")
    run("git", "add", "params.yaml", "conf")
    run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "start")
    assert "now holds the profile tiny" in repro("tiny")
    assert run("git", "status", "--porcelain", "params.yaml") == " M params.yaml\n"
    assert "now holds the profile cpu" in repro()
    assert run("git", "status", "--porcelain", "params.yaml", "conf") == ""
    ran = [yaml.safe_load((folder / f"ran/{number}.yaml").read_text()) for number in (1, 2)]
    assert [params["sample"]["neu_det"] for params in ran] == [20, 60]
    assert ran[1] == yaml.safe_load((ROOT / "params.yaml").read_text())
    assert len(list((folder / "ran").iterdir())) == 2


def test_composing_what_params_yaml_holds_already_imports_no_typed_parameters(folder: Path) -> None:
    """`make repro` composes at every start."""
    write_params(folder, "cpu")
    program = (
        "import sys; from pipeline.profiles import main; assert main(['cpu']) == 0;"
        "print(sorted({'pipeline.params', 'numpy', 'pydantic', 'torch'} & {*sys.modules}))"
    )
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_settings_of_ones_own_are_kept_when_a_profile_replaces_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for command in ("init -q", "add params.yaml", "-c user.name=a -c user.email=a@b commit -qm params"):
        subprocess.run(["git", *command.split()], check=True)
    own = Path("params.yaml").read_text().replace("seed: 0", "seed: 7")
    Path("params.yaml").write_text(own)
    assert main([]) == 0
    assert "your own params.yaml is kept as params.yaml.before" in capsys.readouterr().out
    assert Path("params.yaml.before").read_text() == own
    Path("params.yaml.before").unlink()
    for profile in ("tiny", "cpu"):  # both can be made again
        assert main([profile]) == 0
    assert not Path("params.yaml.before").exists()
