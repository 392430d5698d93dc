"""`python -m benchmarks.screenshots`: pictures of a run's demo, report and MLflow pages, for docs/images.

Needs Chromium (`apt-get install chromium`) and the extra `dev`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from benchmarks.load import served
from metaldefect.errors import UserError, exit_on_user_error
from pipeline.mlflow_view import links

# The editor needs WebGL, which a headless browser has in software only
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
PATIENCE = 120_000  # ms
COLOURS = 128  # of a picture's palette: half the bytes, and no visible difference
PAGES = ("report", "demo", "mlflow")
MLFLOW_PAGES = ("mlflow_list", "mlflow_comparison")  # in the order of `links`
HEADLINE = ("image_auroc", "f1_at_threshold", "au_pro")  # some of what both MLflow pages show
# MLflow opens its assistant over the table on a browser's first visit, unless this says that it has done so
NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
FOLDING = 1000  # ms that a section takes to open or close
LIST_SIZE, COMPARISON_SIZE = (1600, 440), (1280, 1170)  # width, height of the pictures


def photograph(page: Any, path: Path, height: int) -> None:
    """Save the top of a page as a PNG with a palette."""
    page.screenshot(path=path, clip={"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height})
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS)
    small.save(path, optimize=True)


def photograph_report(browser: Any, report: Path, path: Path) -> None:
    """The report's first screen."""
    page = browser.new_page(viewport={"width": 1200, "height": 1300})
    page.goto(report.resolve().as_uri())
    page.wait_for_selector(".chart svg")
    photograph(page, path, 1300)
    page.close()


def photograph_demo(browser: Any, address: str, path: Path, label: str, seed: str) -> None:
    """The demo's first tab after a stroke of the brush became a defect."""
    page = browser.new_page(viewport={"width": 1280, "height": 1700})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_selector("#editor canvas")
    page.wait_for_timeout(2000)  # the editor paints its picture after its canvas appears
    box = page.locator("#editor canvas").first.bounding_box()
    # Along the metal's grain, as scratches run
    page.mouse.move(box["x"] + 0.38 * box["width"], box["y"] + 0.6 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.62 * box["width"], box["y"] + 0.47 * box["height"], steps=12)
    page.mouse.up()
    page.get_by_label("Defect class").first.click()
    page.get_by_role("option", name=label, exact=True).click()  # typing is too fast for the list to follow
    page.get_by_label("Seed").first.fill(seed)
    page.click("#draw")
    page.wait_for_selector("#after img")
    page.wait_for_timeout(2000)
    page.evaluate("window.scrollTo(0, 0)")
    photograph(page, path, 1700)
    page.close()


@contextmanager
def serve_mlflow(root: Path) -> Iterator[str]:
    """Serve the MLflow store of the project in `root`; yields the server's address."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlruns/mlflow.db"]
    with served(command, "/health", root) as (address, pid):
        try:
            yield address
        finally:
            for child in psutil.Process(pid).children(recursive=True):  # `served` ends the parent alone
                child.terminate()


def open_mlflow(
    browser: Any, address: str, texts: Sequence[str | re.Pattern[str]], size: tuple[int, int] = LIST_SIZE
) -> Any:
    """Open a page of MLflow without its assistant, and wait until it shows all these texts.

    Args:
        browser: Playwright's.
        address: of the page.
        texts: whole texts of elements, or patterns in them.
        size: width and height of the window, in pixels.
    """
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(PATIENCE)
    page.add_init_script(NO_ASSISTANT)
    page.goto(address)
    for text in texts:
        page.get_by_text(text, exact=True).first.wait_for()
    return page


def tidy_list(page: Any) -> None:
    """Hide the side bar and the banner of a shared view, and widen the names of the runs."""
    page.get_by_label("Toggle sidebar").click()
    page.get_by_label("Hide banner").click()
    page.locator(".ag-header-cell", has_text="Run Name").locator(".ag-header-cell-resize").dblclick()


def tidy_comparison(page: Any) -> None:
    """Leave the runs, the settings that differ, and the first metrics.

    Scrolling is no way to the others: MLflow 3.17 then moves the values and not their names.
    """
    for section in ("Visualizations", "Artifacts", "Tags"):
        page.get_by_text(section, exact=True).first.click()
    page.get_by_label("Parameters - Show diff only").click()


def photograph_mlflow(browser: Any, root: Path, output: Path) -> None:
    """The list of pipeline runs with their headline metrics, and the comparison of the last ones.

    Raises:
        UserError: there are no two pipeline runs to compare.
    """
    with serve_mlflow(root) as server:
        with chdir(root):
            addresses = [line.split()[-1] for line in links(Path(), server)]
        if len(addresses) < len(MLFLOW_PAGES):
            raise UserError(f"{root} holds no two finished pipeline runs to compare")
        tidies, sizes = (tidy_list, tidy_comparison), (LIST_SIZE, COMPARISON_SIZE)
        for address, name, tidy, size in zip(addresses, MLFLOW_PAGES, tidies, sizes, strict=True):
            page = open_mlflow(browser, address, HEADLINE, size)
            tidy(page)
            page.mouse.move(0, 0)  # else what is under the mouse stands out
            page.wait_for_timeout(FOLDING)
            photograph(page, output / f"{name}.png", size[1])
            page.close()


def main() -> None:
    """Photograph the pages of a run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshots", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("."), help="folder of a finished run")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=list(PAGES), help="what to photograph")
    parser.add_argument("--label", default="scratches", help="class of the defect to draw")
    parser.add_argument("--seed", default="0")
    args = parser.parse_args()
    with exit_on_user_error("screenshots"):
        chromium, report = shutil.which("chromium"), args.root / "reports/index.html"
        if chromium is None:
            raise UserError("no chromium is installed: apt-get install chromium")
        if not report.is_file():
            raise UserError(f"{report} does not exist: run `make repro` first")
        from playwright.sync_api import sync_playwright

        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
            if "report" in args.pages:
                photograph_report(browser, report, args.output / "report_page.png")
            if "demo" in args.pages:
                command = [sys.executable, "-m", "app", "--root", str(args.root), "--port", "{port}"]
                with served(command) as (address, _pid):
                    photograph_demo(browser, address, args.output / "demo_page.png", args.label, args.seed)
            if "mlflow" in args.pages:
                photograph_mlflow(browser, args.root, args.output.resolve())
            browser.close()
    print(f"wrote {', '.join(args.pages)} to {args.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
