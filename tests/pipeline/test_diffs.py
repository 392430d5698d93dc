"""`dvc metrics diff` and `dvc plots diff` of two runs: a short table, and a page that needs no network.

Stand-ins that DVC takes for the outs of two runs, so nothing is trained.
"""

from __future__ import annotations

import json
import re
import sys

import pytest
import yaml

from pipeline.headline import HEADLINE
from tests.e2e.conftest import Project, clone, record_stand_ins

BEFORE, AFTER = 0.1234, 0.8765


def curves(project: Project, value: float) -> dict[str, str]:
    """Files of the curves that dvc.yaml plots: two rows each, the last one with this value."""
    found = {}
    for plot in yaml.safe_load((project.root / "dvc.yaml").read_text())["plots"]:
        ((_, options),) = plot.items()
        for path, columns in options["y"].items():
            rows = ([options["x"], *columns], [0] + [0.5] * len(columns), [10] + [value] * len(columns))
            found[path] = "\n".join(",".join(map(str, row)) for row in rows) + "\n"
    return found


def finish_run(project: Project, value: float) -> None:
    """A run whose headline metrics and curves all end at a value."""
    headline = {"metrics/headline.json": json.dumps(dict.fromkeys(HEADLINE, value))}
    record_stand_ins(project, curves(project, value) | headline)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone with one run committed and another one in the working tree."""
    project = clone(tmp_path_factory.mktemp("two-runs"), "tiny")
    finish_run(project, BEFORE)
    project.run("git", "add", "--all")
    project.run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "first run")
    finish_run(project, AFTER)
    return project


def test_the_table_of_changed_metrics_fits_on_a_screen(two_runs: Project) -> None:
    lines = [line for line in two_runs.dvc("metrics", "diff", "--md").splitlines() if line.startswith("|")]
    assert lines[0].replace(" ", "") == "|Path|Metric|HEAD|workspace|Change|"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert {row[1] for row in rows} == set(HEADLINE)
    assert {(row[0], *row[2:4]) for row in rows} == {("metrics/headline.json", f"{BEFORE}", f"{AFTER}")}
    assert len(rows) <= 20
    assert max(map(len, lines)) <= 120


def test_the_page_of_changed_plots_needs_no_network_and_shows_both_runs(two_runs: Project) -> None:
    two_runs.run(sys.executable, "-m", "pipeline.plots_template")
    two_runs.dvc("plots", "diff")
    page = (two_runs.root / "dvc_plots/index.html").read_text()
    plots = yaml.safe_load((two_runs.root / "dvc.yaml").read_text())["plots"]
    scripts = re.findall(r"<script[^>]*>", page)
    assert len(scripts) == 1 + len(plots)  # Vega, and one per plot
    assert not [tag for tag in scripts if "src" in tag]
    assert "<link" not in page
    for plot in plots:
        ((name, _),) = plot.items()
        assert f"vegaEmbed('#{name}'" in page
    assert str(BEFORE) in page
    assert str(AFTER) in page
