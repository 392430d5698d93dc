"""DVC's plots render from one file that loads nothing from outside."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PIPELINE = """\
stages:
  train:
    cmd: python -c "1"
    outs:
      - losses.csv: {cache: false}
plots:
  - losses:
      x: step
      y:
        losses.csv: [loss]
"""


@pytest.fixture
def page(tmp_path: Path, environment: dict[str, str]) -> str:
    root = tmp_path / "project"
    root.mkdir()
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "losses.csv").write_text("step,loss\n0,2.5\n10,1.25\n")
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        [sys.executable, "-m", "pipeline.plots_template"],
        [sys.executable, "-m", "dvc", "plots", "show"],
    ):
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return (root / "dvc_plots/index.html").read_text()


def test_plots_need_no_network(page: str) -> None:
    scripts = re.findall(r"<script[^>]*>", page)
    assert len(scripts) == 2  # Vega, and the one plot
    assert not [tag for tag in scripts if "src" in tag]
    assert "<link" not in page
    assert "1.25" in page
    assert "vegaEmbed('#losses'" in page


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
def test_the_page_defines_what_its_plots_call(page: str, tmp_path: Path) -> None:
    start = page.index("<script>") + len("<script>")
    script = page[start : page.index("</script>", start)]
    (tmp_path / "bundle.js").write_text(
        f"global.window = global; global.document = {{}};\n{script}\nconsole.log(typeof window.vegaEmbed);"
    )
    done = subprocess.run(["node", tmp_path / "bundle.js"], capture_output=True, text=True)
    assert done.stdout.strip() == "function", done.stderr[-500:]
