"""The pipeline's stopwatch: what it collects, and that a missing figure is named."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import pipeline
from benchmarks.pipeline import (
    FIGURES,
    PICTURES,
    Collected,
    PipelineRun,
    collect_run,
    confirm,
    copy_pictures,
    main,
    run_profile,
    time_noop_flow,
    update,
    workspace,
)
from benchmarks.results import Interval, Result, read, write
from metaldefect.errors import UserError

METRICS = {
    "evaluate_vq": {
        "after": {name: {"mean": 0.5, "low": 0.25, "high": 0.75} for name in
                  ("ssim", "edge_iou", "edge_iou_1px", "lpips", "block_ratio")},
        "gain": {name: {"mean": 0.5, "low": 0.25, "high": 0.75, "relative": 1.0} for name in
                 ("ssim", "edge_iou")},
    },
    "evaluate_maskgit": {
        "masked_ce": 4.5, "ce_wrong_minus_true": 0.5, "ce_wrong_minus_true_at_90": 0.5,
        "interval_95": {name: [0.25, 0.75] for name in ("ce_wrong_minus_true", "ce_wrong_minus_true_at_90")},
    },
    "evaluate_synthesis": {
        "judge_accuracy_on_real": {"mean": 0.5, "low": 0.25, "high": 0.75, "per_class": {"a": 0.5}},
        "class_agreement_independent": {"mean": 0.5, "low": 0.25, "high": 0.75, "per_class": {"a": 0.5}},
        "class_agreement_independent_lowest": 0.5,
        "class_agreement": {"mean": 0.5, "low": 0.25, "high": 0.75, "per_class": {"a": 0.5}},
        "cas": {"ratio": 0.5, "interval_95": {"ratio": [0.25, 0.75]}},
        "kid": {"ratio": 1.5},
        "gain_at_10": {"gain": {"mean": 0.5, "low": 0.25, "high": 0.75}, "synthetic_weight": 0.3},
        "block_ratio": {"mean": 1.1, "low": 1.0, "high": 1.2, "per_class": {"a": 1.1}, "highest": 1.1},
        "block_ratio_insertions": {"mean": 1.1, "low": 1.0, "high": 1.2, "canvas": 1.0, "insertions": 9},
        "seams": {"inserted_to_canvas": 1.0},
        "realism": {f"{method}_realism_auroc": {"mean": 0.5, "low": 0.25, "high": 0.75} for method in
                    ("insertion", "copy_paste", "procedural")},
    },
    "evaluate_efficientad": {
        "memory_bank": {"image_auroc": 1.0, "au_pro": 0.5},
        "generated": {"detection_rate": 0.5},
        "image_auroc": 1.0, "au_pro": 0.5, "f1_at_threshold": 0.5, "false_alarm_rate": 0.0,
        "interval_95": {"image_auroc": [0.75, 1.0]},
    },
    "evaluate_openvino": {"parity": {"max_abs_error": 1e-6}},
    "latency": {precision: {"p50_ms": 15.0} for precision in ("fp32", "fp16", "int8")},
}  # fmt: skip


def write_metrics(root: Path, metrics: dict[str, object]) -> None:
    (root / "metrics").mkdir()
    for name, content in metrics.items():
        (root / "metrics" / f"{name}.json").write_text(json.dumps(content))


def test_figures_come_with_their_intervals_wherever_these_stand(tmp_path: Path) -> None:
    write_metrics(tmp_path, METRICS)
    figures, left_out, metrics = collect_run(tmp_path)
    assert left_out == []
    assert list(figures) == list(FIGURES)
    interval = Interval(value=0.5, low=0.25, high=0.75)
    judged = (
        "class_agreement",
        "class_agreement_independent",
        "judge_accuracy_on_real",
        "cas_ratio",
        "gain_at_10",
        "ce_wrong_minus_true_at_90",
    )
    for name in ("ssim", "ssim_gain", "ce_wrong_minus_true", "insertion_realism_auroc", *judged):
        assert figures[name] == interval, name
    assert figures["image_auroc"] == Interval(value=1.0, low=0.75, high=1.0)
    assert figures["kid_ratio"] == 1.5
    assert figures["false_alarm_rate"] == 0.0
    assert metrics["evaluate_synthesis"]["class_agreement"]["per_class"] == {"a": 0.5}


def test_every_missing_figure_is_listed(tmp_path: Path) -> None:
    broken = {name: dict(content) for name, content in METRICS.items() if name != "latency"}
    del broken["evaluate_efficientad"]["au_pro"]
    write_metrics(tmp_path, broken)
    found = collect_run(tmp_path)
    assert found.left_out == [
        "au_pro (metrics/evaluate_efficientad.json: au_pro)",
        *(f"latency_{p}_ms (metrics/latency.json: {p}.p50_ms)" for p in ("fp32", "fp16", "int8")),
    ]
    assert "ssim" in found.figures
    assert "au_pro" not in found.figures


@pytest.mark.parametrize("keep", [False, True])
def test_a_profile_runs_in_a_fresh_clone_of_what_is_committed(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/raw/photographs").write_text("raw")
    (folder / ".gitignore").write_text("data/\n")
    (folder / "Makefile").write_text(
        ".venv/.installed: Makefile\n\tfalse\nrepro: .venv/.installed\n"
        "\techo $(PROFILE) $$(cat data/raw/photographs) $$PYTHONPATH > out && sleep 1\n"
    )
    monkeypatch.chdir(folder)
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)
    (folder / "uncommitted").touch()
    with workspace(clone=True, keep=tmp_path / "kept" if keep else None) as clone:
        run = run_profile(clone, "real")
        assert (clone / "out").read_text().split() == ["real", "raw", str(clone)]
        assert not (clone / "uncommitted").exists()
        status = subprocess.run(
            ["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True
        )
        assert status.stdout == "?? out\n", "the environment's link is no change of the clone"
    assert clone.exists() == keep
    assert run.seconds >= 1
    assert run.peak_rss_mb > 0


def test_a_failed_run_is_an_error_and_gives_no_result(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("repro:\n\tfalse\n")
    with pytest.raises(SystemExit, match="repro PROFILE=tiny failed"):
        run_profile(tmp_path, "tiny")


STUB = """\
import sys
from pathlib import Path

def prepare(root):
    (Path(root) / "database").touch()

if __name__ == "__main__":
    assert Path("database").exists(), "made before"
    sys.exit(Path("broken").exists())
"""


def test_a_flow_with_nothing_to_do_is_timed_without_its_first_preparations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/__init__.py").touch()
    (tmp_path / "flows/run.py").write_text(STUB)
    now = 0.0

    def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        nonlocal now
        now += 2.0 if "flows.run" in words else 100.0
        return subprocess.run(words, **options)

    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(pipeline, "subprocess", SimpleNamespace(run=run))
    assert time_noop_flow(tmp_path) == 2.0
    (tmp_path / "broken").touch()
    with pytest.raises(SystemExit, match=r"-m flows\.run failed with status 1"):
        time_noop_flow(tmp_path)


@pytest.mark.parametrize(("seconds", "too_slow"), [(15.0, False), (15.1, True)])
def test_a_slow_flow_with_nothing_to_do_is_published_and_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, too_slow: bool
) -> None:
    published: list[dict[str, float]] = []
    fakes = {
        "make_clone": lambda _folder: None,
        "run_profile": lambda _root, _profile: PipelineRun(900.0, 3000.0),
        "time_noop_flow": lambda _root: seconds,
        "collect_run": lambda _root: Collected({"ssim": 0.5}, [], {}),
        "copy_pictures": lambda *_arguments: None,
        "publish": lambda _path, _name, figures, _details: published.append(figures),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pipeline, name, fake)
    monkeypatch.setattr("sys.argv", ["pipeline", "--clone"])
    if too_slow:
        with pytest.raises(SystemExit, match=r"nothing to do took 15\.1 s, more than 15 s"):
            main()
    else:
        main()
    assert published == [{"ssim": 0.5, "seconds": 900.0, "peak_rss_mb": 3000.0, "noop_flow_s": seconds}]


REPRO = """\
repro:
\tmkdir -p metrics && cp vq.json metrics/evaluate_vq.json
\ttest "$$(cat dvc.lock)" = "of this run" && echo again >> ran
"""


@pytest.fixture
def commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], str]:
    """What commits code that measures these values, in a project that is the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path("Makefile").write_text(REPRO)
    Path("dvc.lock").write_text("of another run")
    Path("old.py").write_text("gone in the next commit")

    def committed(values: dict[str, float]) -> str:
        Path("vq.json").write_text(json.dumps({"after": values}))
        for words in (["add", "."], ["commit", "--quiet", "-m", "next"]):
            subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        return head.stdout.strip()

    return committed


def keep_a_run(kept: Path) -> None:
    """A clone of the working directory that has run."""
    subprocess.run(["git", "clone", "--quiet", ".", str(kept)], check=True)
    (kept / "dvc.lock").write_text("of this run")


def published(folder: Path, commit: str) -> Path:
    """A result of a whole run at a commit."""
    path = folder / "real.json"
    figures = {"ssim": 0.5, "seconds": 900.0, "latency_int8_ms": 5.0}
    write(
        path,
        Result(
            command="python -m x", machine="m", commit=commit, date="2026-01-31", figures=figures, details={}
        ),
    )
    return path


def test_a_kept_run_confirms_its_figures_for_a_later_commit_or_says_which_differ(
    tmp_path: Path, commit: Callable[[dict[str, float]], str]
) -> None:
    kept = tmp_path / "kept"
    first = commit({"ssim": 0.5})
    keep_a_run(kept)
    path = published(tmp_path, first)

    Path("old.py").unlink()
    second = commit({"ssim": 0.5, "ignored": 0.1})
    assert confirm(kept, "real", path) == []
    assert not (kept / "old.py").exists()
    assert (read(path).commit, read(path).confirmed) == (first, second)
    assert (kept / "dvc.lock").read_text() == "of this run"
    commit({"ssim": 0.25})
    assert confirm(kept, "real", path) == ["ssim: 0.5 -> 0.25"]
    assert read(path).confirmed == second
    assert (kept / "ran").read_text() == "again\n" * 2


def test_a_kept_run_that_is_brought_up_to_date_publishes_what_it_gives_now(
    tmp_path: Path, commit: Callable[[dict[str, float]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    first = commit({"ssim": 0.5})
    keep_a_run(kept)
    path = published(tmp_path, first)
    monkeypatch.setattr("benchmarks.results.BEGUN_AT", {})
    for module in ("pipeline", "results"):
        monkeypatch.setattr(f"benchmarks.{module}.machine_name", lambda: "m")
    for ssim in (0.25, 0.125):  # an update of an update still names the whole run
        head = commit({"ssim": ssim})
        update(kept, "real", path)
        result = read(path)
        assert result.figures == {"ssim": ssim, "seconds": 900.0}  # a latency is of the stage that ran
        assert (result.commit, result.details["whole_run"]) == (head, first)
        assert f"`{first[:7]}`" in result.details["note"]
    assert (kept / "dvc.lock").read_text() == "of this run"


def test_times_of_another_machine_are_not_published_beside_figures_of_this_one(
    tmp_path: Path, commit: Callable[[dict[str, float]], str]
) -> None:
    path = published(tmp_path, commit({"ssim": 0.5}))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"is of m, not of this machine: .*--clone"):
        update(tmp_path / "kept", "real", path)
    assert path.read_bytes() == before


def test_pictures_in_the_docs_are_those_that_the_run_drew(tmp_path: Path) -> None:
    drawn, found = tmp_path / "plots/evaluate_synthesis", tmp_path / "plots/evaluate_efficientad"
    drawn.mkdir(parents=True)
    found.mkdir()
    for picture in (
        "inserted_defects", "real_or_drawn", "real_or_drawn_key", "real_and_drawn_per_class"
    ):  # fmt: skip
        (drawn / f"{picture}.png").write_text(picture)
    (found / "from_good_metal_to_a_found_defect.png").write_text("found")
    copy_pictures(tmp_path, "default", tmp_path / "images")
    copied = {path.name: path.read_text() for path in (tmp_path / "images").iterdir()}
    assert copied == {
        "default_from_good_metal_to_a_found_defect.png": "found",
        "default_inserted_defects.png": "inserted_defects",
        "default_real_or_drawn.png": "real_or_drawn",
        "default_real_or_drawn_key.png": "real_or_drawn_key",
        "default_real_and_drawn_per_class.png": "real_and_drawn_per_class",
    }
    (drawn / "inserted_defects.png").unlink()
    with pytest.raises(UserError, match="did not draw: inserted_defects"):
        copy_pictures(tmp_path, "real", tmp_path / "images")


def test_every_picture_of_the_pages_comes_from_a_command() -> None:
    root = Path(__file__).resolve().parents[2]
    made = {f"{name}_{picture}.png" for name in ("default", "real") for picture in PICTURES}
    made |= {f"{page}.png" for page in ("demo_page", "report_page", "mlflow_list", "mlflow_comparison")}
    made |= {"edge.png", "tile_classes.png", "tiles.png", "tiles_256.png"}
    assert {path.name for path in (root / "docs/images").iterdir()} <= made
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / link).is_file(), f"{page.name}: {link}"
