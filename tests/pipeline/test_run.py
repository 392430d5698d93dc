"""What all stages share: hashes of what a stage is made from, and runs under one parent."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.run import flatten_numbers, lookup, parent_run_id, stage_hash


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("a = 1\n")
    definition = {"cmd": "python -m stages.x", "deps": ["code", "${data.root}"], "params": ["x", "seed"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"x": definition}}))
    (tmp_path / "params.yaml").write_text("seed: 0\nx: {a: 1}\ny: 2\ndata: {root: data/raw}\n")
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/1.txt").write_text("one")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("code/a.py", "a = 2\n", True),
        ("code/b.py", "", True),
        ("code/__pycache__/a.pyc", "x", False),
        ("data/raw/1.txt", "two", True),
        ("params.yaml", "seed: 1\nx: {a: 1}\ny: 2\ndata: {root: data/raw}\n", True),
        ("params.yaml", "seed: 0\nx: {a: 2}\ny: 2\ndata: {root: data/raw}\n", True),
        ("params.yaml", "seed: 0\nx: {a: 1}\ny: 3\ndata: {root: data/raw}\n", False),
    ],
)
def test_the_hash_follows_what_the_stage_is_made_from(
    project: Path, file: str, text: str, changes: bool
) -> None:
    before = stage_hash("x")
    assert stage_hash("x") == before
    (project / file).parent.mkdir(exist_ok=True)
    (project / file).write_text(text)
    assert (stage_hash("x") != before) == changes


def test_params_of_another_file_count_by_their_keys(project: Path) -> None:
    content = yaml.safe_load((project / "dvc.yaml").read_text())
    content["stages"]["x"]["params"].append({"code.yaml": ["x"]})
    (project / "dvc.yaml").write_text(yaml.safe_dump(content))
    (project / "code.yaml").write_text("x: abc\ny: abc\n")
    first = stage_hash("x")
    (project / "code.yaml").write_text("x: abc\ny: changed\n")
    assert stage_hash("x") == first
    (project / "code.yaml").write_text("x: changed\ny: abc\n")
    assert stage_hash("x") != first


def test_a_dependency_that_a_stage_made_is_known_by_its_lock_entry(project: Path) -> None:
    lock = {"stages": {"before": {"outs": [{"path": "data/raw", "md5": "1.dir"}]}}}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    first = stage_hash("x")
    lock["stages"]["before"]["outs"][0]["md5"] = "2.dir"
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert stage_hash("x") != first


def test_lookup_and_flat_numbers() -> None:
    content = {"a": {"b": 1, "c d?": 2.5, "t": True, "s": "x", "n": None}, "e": float("nan")}
    assert lookup(content, "a.b") == 1
    assert lookup(content, "a.b.c") is None
    assert flatten_numbers(content) == [("a.b", 1.0), ("a.c d_", 2.5)]


def test_a_given_parent_run_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALDEFECT_PARENT_RUN_ID", "abc")
    assert parent_run_id() == "abc"
