"""The same data, settings and code are not trained and judged twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.judged import carried_out_untold, inputs_md5, judge, note_pending, remember_verdict, why_not_again
from metaldefect.artifacts import write_json
from pipeline.champion import BUNDLES, CHALLENGER, CHAMPION, point, remember

HOLDOUT = "data/holdout.json"
DATE = "2026-01-01-030000"


def verdict(name: str, challenger: str | None = "new") -> dict[str, Any]:
    return {
        "verdict": name,
        "reason": "made up",
        "holdout": {"sha256": "images"},
        "challenger": challenger and {"version": challenger},
        "champion": {"version": "old"},
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write_json(tmp_path / HOLDOUT, {"sha256": "images"})
    serve(tmp_path, "old")
    return tmp_path


def serve(root: Path, version: str) -> None:
    (root / BUNDLES / version).mkdir(parents=True, exist_ok=True)
    point(root, CHAMPION, root / BUNDLES / version)


@pytest.mark.parametrize(
    ("name", "serves", "said"),
    [
        ("HOLD", "old", ", whose challenger was held: made up"),
        ("REJECT", "old", ", whose challenger was rejected: made up"),
        ("HOLD", "new", ": champion new is up to date"),  # promoted by hand
        ("PROMOTE", "new", ": champion new is up to date"),
        # An operator went back: a schedule that promotes it again would undo that
        ("PROMOTE", "old", ", whose challenger was promoted, and replaced since: made up"),
    ],
)
def test_nothing_new_is_said_in_one_sentence(project: Path, name: str, serves: str, said: str) -> None:
    assert why_not_again(project, "inputs") is None
    remember_verdict(project, judge(DATE, "inputs", verdict(name)))
    serve(project, serves)
    assert why_not_again(project, "inputs") == f"no new data, settings or code since {DATE}{said}"


def test_new_inputs_another_holdout_or_another_champion_are_judged(project: Path) -> None:
    remember_verdict(project, judge(DATE, "inputs", verdict("REJECT", None)))
    assert why_not_again(project, "inputs") is not None
    assert why_not_again(project, "others") is None
    serve(project, "a worse one")
    assert why_not_again(project, "inputs") is None
    serve(project, "old")
    write_json(project / HOLDOUT, {"sha256": "other images"})
    assert why_not_again(project, "inputs") is None


def test_a_verdict_is_untold_only_if_it_was_carried_out(project: Path) -> None:
    assert carried_out_untold(project) is None
    for name in ("PROMOTE", "HOLD"):
        judged = judge(DATE, "inputs", verdict(name))
        note_pending(project, judged)
        assert carried_out_untold(project) is None, "killed before: the next run judges again"
        link = CHAMPION if name == "PROMOTE" else CHALLENGER
        (project / BUNDLES / "new").mkdir(parents=True, exist_ok=True)
        point(project, link, project / BUNDLES / "new")
        assert carried_out_untold(project) == judged
        serve(project, "old")
    judged = judge(DATE, "inputs", verdict("PROMOTE"))
    note_pending(project, judged)
    assert carried_out_untold(project) is None
    remember(project, {"version": "new", "branch": f"retrain/{DATE}"})  # and rolled back since
    assert carried_out_untold(project) == judged
    note_pending(project, judge(DATE, "inputs", verdict("REJECT", None)))
    assert carried_out_untold(project) is not None


def test_inputs_are_settings_graph_code_and_raw_data_alone(tmp_path: Path) -> None:
    stages = {
        "make": {"cmd": "make", "deps": ["code.py", "${data.root}", "tracked"], "outs": ["made"]},
        "use": {"cmd": "use", "deps": ["made"], "outs": ["end"]},
    }
    files = {
        "dvc.yaml": yaml.safe_dump({"stages": stages}),
        "params.yaml": "data: {root: raw}\n",
        "code.py": "1",
        "raw/a.png": "1",
        "tracked.dvc": "md5: 1",
        "tracked/a.png": "1",
        "made/x": "1",
        "dvc.lock": "1",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    before = inputs_md5(tmp_path)
    for name in ("made/x", "dvc.lock"):
        (tmp_path / name).write_text("2")
        assert inputs_md5(tmp_path) == before, name
    for name in ("code.py", "raw/a.png", "raw/b.png", "tracked.dvc", "params.yaml", "dvc.yaml"):
        text = (tmp_path / name).read_text() if (tmp_path / name).is_file() else ""
        (tmp_path / name).write_text(f"{text}# 2\n")
        after = inputs_md5(tmp_path)
        assert after != before, name
        before = after
