"""Atomic writes keep the old artefact until the new one is whole."""

from pathlib import Path

import pytest

from metaldefect.artifacts import atomic_directory, atomic_file, read_json, write_json
from metaldefect.errors import UserError


def test_a_directory_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as directory:
        (directory / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(target) as directory:
        (directory / "a").write_text("half")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    with atomic_directory(target) as directory:
        (directory / "b").write_text("new")
    assert sorted(p.name for p in target.iterdir()) == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_leavings_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp-dead").mkdir()
    with atomic_directory(tmp_path / "out"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_json_refuses_nan_and_names_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"b\.json is not valid JSON"):
        read_json(tmp_path / "b.json")
