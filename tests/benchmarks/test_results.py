"""Result files: what they hold, who may write them, and when they are stale."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.pivots import PIVOTS, pivoted
from benchmarks.readme import PART, STALE, label, pivot_table, rendered, table
from benchmarks.results import Interval, Result, command_line, is_stale, measured_paths, publish, read, write
from metaldefect.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def result(**changes: object) -> Result:
    content: dict[str, object] = {
        "command": "python -m benchmarks.data",
        "machine": "a machine, 2 cores",
        "commit": COMMIT,
        "date": "2026-01-31T12:00:00+00:00",
        "figures": {"ssim": {"value": 0.75, "low": 0.5, "high": 0.875}, "groups": 1938},
        "details": {"steps": 3},
    }
    return Result.model_validate(content | changes)


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit with a measured file and another one."""
    git(tmp_path, "init", "--quiet")
    for name in ("measured", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    return tmp_path


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "some/data.json"
    write(path, result())
    assert read(path) == result()
    assert set(json.loads(path.read_text())) == {"command", "machine", "commit", "date", "figures", "details"}
    assert [file.name for file in path.parent.iterdir()] == ["data.json"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"figures": {}}, "figures"),
        ({"figures": {"ssim": "good"}}, r"figures\.ssim"),
        ({"figures": {"ssim": {"value": 0.5, "low": 0.75, "high": 0.25}}}, "low = 0.75 is above high = 0.25"),
        ({"figures": {"finetune_vq": {"after": {"ssim": 0.5}}}}, r"figures\.finetune_vq"),
        ({"figures": {"Not flat.name": 1}}, "figures"),
        ({"commit": "main"}, "commit"),
        ({"runs": 3}, "runs"),
    ],
)
def test_what_is_not_a_result_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(result().model_dump(mode="json") | changes))
    with pytest.raises(UserError, match=rf"data\.json is not a result: .*{complaint}"):
        read(path)


def test_a_figure_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        result(figures={"ssim": float("nan")})


def test_a_result_is_stale_when_the_code_it_measures_differs(repository: Path) -> None:
    measured = result(commit=git(repository, "rev-parse", "HEAD"))
    (repository / "other/code.py").write_text("x = 2\n")
    git(repository, "commit", "--quiet", "-am", "two")
    assert not is_stale(measured, ["measured"], repository)
    (repository / "measured/code.py").write_text("x = 2\n")
    assert is_stale(measured, ["measured"], repository), "before the commit, so that README changes with it"
    git(repository, "commit", "--quiet", "-am", "three")
    assert is_stale(measured, ["measured"], repository)
    confirmed = result(commit=measured.commit, confirmed=git(repository, "rev-parse", "HEAD"))
    assert not is_stale(confirmed, ["measured"], repository)
    (repository / "measured/figures.py").write_text("colour = 1\n")
    git(repository, "add", "measured")
    git(repository, "commit", "--quiet", "-m", "drawing alone")
    assert not is_stale(confirmed, ["measured"], repository)
    assert is_stale(result(), ["measured"], repository), "nobody knows the code of an unknown commit"


def test_publish_writes_the_commit_and_prints_one_line_of_json_last(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["x", "--raw", "/somewhere/raw", "--work=/somewhere/w", "--steps", "3"])
    publish(Path("out.json"), "data", {"groups": 3}, {"long": [1, 2]})
    found = read(repository / "out.json")
    assert found.commit == git(repository, "rev-parse", "HEAD")
    assert found.command == "python -m benchmarks.data --raw .../raw --work=.../w --steps 3"
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["figures"] == {"groups": 3}
    assert "details" not in line


def test_a_result_names_the_commit_that_was_there_when_the_benchmark_began(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    begun_at = git(repository, "rev-parse", "HEAD")
    monkeypatch.setitem(results.BEGUN_AT, repository, begun_at)
    (repository / "measured/more.py").write_text("meanwhile = 1\n")
    git(repository, "add", "measured")
    git(repository, "commit", "--quiet", "--message", "meanwhile")
    assert publish(Path("out.json"), "data", {"groups": 3}, {}).commit == begun_at
    assert is_stale(read(repository / "out.json"), ["measured"], repository)


def test_without_a_repository_nothing_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="needs the commit"):
        publish(Path("out.json"), "data", {"groups": 3}, {})
    assert not Path("out.json").exists()


def test_command_line_without_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    assert command_line("data") == "python -m benchmarks.data"


def test_a_table_has_one_run_its_command_machine_commit_and_date() -> None:
    text = table(result(), stale=False)
    assert text.splitlines()[0] == (
        "`python -m benchmarks.data` on a machine, 2 cores, commit `0123456`, 2026-01-31."
    )
    assert "| reconstruction SSIM | 0.7500 (0.5000 to 0.8750) |" in text
    assert "| groups of near-duplicates | 1,938 |" in text
    assert STALE not in text
    assert STALE in table(result(), stale=True)


def test_a_table_says_that_its_numbers_were_copied_from_an_older_file() -> None:
    copied = result(details={"note": "taken from an earlier results file"})
    assert "2026-01-31. Taken from an earlier results file." in table(copied, stale=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image_auroc", "detector: image AUROC"),
        ("image_auroc_seed2", "detector: image AUROC, seed 2"),
        ("short_teacher_au_pro_seed0", "short teacher, detector: AU-PRO, seed 0"),
        ("image_auroc_difference", "change on the other machine: detector: image AUROC"),
        ("edge_iou_components_4_at_128", "edge iou components 4 at 128"),
    ],
)
def test_figures_have_names_in_words(name: str, words: str) -> None:
    assert label(name) == words


def test_parts_of_a_page_are_made_from_the_result_of_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    write(tmp_path / "data.json", result())
    page = "a\n<!-- data-run -->\nold\n<!-- /data-run -->\nb\n<!-- real-run -->\n<!-- /real-run -->\n"
    text = rendered(page)
    assert "old" not in text
    assert "groups of near-duplicates | 1,938" in text
    assert "<!-- real-run -->\nNot measured yet.\n<!-- /real-run -->" in text
    with pytest.raises(UserError, match="<!-- plot -->: expected one of `dag`, `<result>-run`, `edge-goals`"):
        rendered("<!-- plot -->\n<!-- /plot -->")


def test_a_run_of_the_pipeline_shows_its_main_figures_and_folds_all_away() -> None:
    text = table(result(), stale=False)
    shown, folded = text.split("<details>")
    assert "reconstruction SSIM |" in shown
    assert "groups" not in shown
    assert "reconstruction SSIM |" in folded
    assert "| groups of near-duplicates | 1,938 |" in folded


def test_figures_of_one_seed_are_folded_away() -> None:
    seeds = {"image_auroc": 0.8, "image_auroc_seed0": 0.7, "image_auroc_seed1": 0.9}
    shown, folded = table(result().model_copy(update={"figures": seeds}), stale=False).split("<details>")
    assert ("seed 0" in shown, "seed 0" in folded) == (False, True)


def test_figures_with_rows_and_columns_in_their_names_become_a_table() -> None:
    figures = {"cpp_int8_max_error": 0.5, "cpp_int8_changed_decisions": 2, "golden_frames": 16}
    found = result().model_copy(update={"figures": figures})
    lines = pivot_table("agreement")(found, False).splitlines()
    assert "| against Python | largest difference of a score | decisions that differ |" in lines
    assert "| C++, INT8 | 0.5000 | 2 |" in lines
    assert "| golden frames | 16 |" in lines
    assert not any("anomalib" in line for line in lines)


@pytest.mark.parametrize(
    "name", sorted(PIVOTS.keys() & {path.stem for path in (ROOT / "benchmarks/results").glob("*.json")})
)
def test_every_figure_of_a_committed_result_has_its_place(name: str) -> None:
    figures = read(ROOT / f"benchmarks/results/{name}.json").figures
    cells, others = pivoted(name, figures)
    assert len(cells) + len(others) == len(figures)
    assert len(cells) > 2 * len(others)


def test_a_benchmarks_chart_stands_above_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "benchmarks/results/data.json", result())
    page = "<!-- data-run -->\n<!-- /data-run -->\n"
    assert "![data]" not in rendered(page, Path("docs/edge.md"))
    (tmp_path / "docs/images").mkdir(parents=True)
    (tmp_path / "docs/images/data.png").write_bytes(b"")
    assert "![data](images/data.png)\n\n`python -m" in rendered(page, Path("docs/edge.md"))
    assert "![data](docs/images/data.png)" in rendered(page, Path("README.md"))


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.stem)
def test_no_page_shows_a_run_without_the_mark_of_its_age(page: Path) -> None:
    """Generated parts alone name a run's machine: they are marked when the code has changed since."""
    by_hand = PART.sub("", page.read_text())
    machines = {read(path).machine for path in (ROOT / "benchmarks/results").glob("*.json")}
    assert [line for line in by_hand.splitlines() if any(f"` on {name}" in line for name in machines)] == []


def test_the_page_of_the_ablation_is_made_from_its_result() -> None:
    text = (ROOT / "docs/ablation.md").read_text()
    found = read(ROOT / "benchmarks/results/ablation.json")
    assert found.date[:10] in text
    assert found.details["note"][1:] in text
    assert text.count("\n| ") == 2 + len(found.details["rows"])


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda p: p.stem)
def test_committed_results_are_results_of_a_benchmark(path: Path) -> None:
    found = read(path)
    assert all(isinstance(figure, int | float | Interval) for figure in found.figures.values())
    assert all((ROOT / measured).exists() for measured in measured_paths(path.stem))


def test_every_committed_result_is_shown_on_a_page_or_quoted_in_the_code() -> None:
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    code = "".join(path.read_text() for path in ROOT.glob("metaldefect/**/*.py"))
    unread = [
        path.stem
        for path in (ROOT / "benchmarks/results").glob("*.json")
        if f"<!-- {path.stem}-" not in pages and f"python -m benchmarks.{path.stem}" not in code
    ]
    assert unread == []


def test_a_run_of_the_pipeline_measures_what_its_stages_read() -> None:
    default, real = (set(measured_paths(name, ROOT)) for name in ("default", "real"))
    assert {"stages/merge.py", "metaldefect/efficientad/torch_model.py", "conf/config.yaml"} <= default & real
    assert default ^ real == {"conf/profile/cpu.yaml", "conf/profile/real.yaml"}
    assert any(path.startswith("metaldefect/weights/") for path in default)
    # A command, and the report's pages: neither shapes a figure
    assert not any(path.startswith(("metaldefect/commands/", "pipeline/")) for path in default)
    assert all((ROOT / path).exists() for path in default | real)


def test_what_is_measured_exists() -> None:
    missing = [p for paths in results.MEASURES.values() for p in paths if not (ROOT / p).exists()]
    assert missing == []


@pytest.mark.parametrize(
    "module",
    sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()),
)
def test_every_benchmark_has_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"benchmarks.{module}").main()
    assert end.value.code == 0
    assert f"usage: python -m benchmarks.{module}" in capsys.readouterr().out
