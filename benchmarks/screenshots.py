"""`python -m benchmarks.screenshots`: pictures of the demo and the report of the last run, for docs/images.

Needs Chromium (`apt-get install chromium`) and the extra `dev`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.load import served
from metaldefect.errors import UserError, exit_on_user_error

# The editor needs WebGL, which a headless browser has in software only
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
PATIENCE = 120_000  # ms
COLOURS = 128  # of a picture's palette: half the bytes, and no visible difference


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
    page.mouse.move(box["x"] + 0.42 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.7 * box["height"], steps=12)
    page.mouse.up()
    page.get_by_label("Defect class").first.fill(label)
    page.keyboard.press("Enter")
    page.get_by_label("Seed").first.fill(seed)
    page.click("#draw")
    page.wait_for_selector("#after img")
    page.wait_for_timeout(2000)
    page.evaluate("window.scrollTo(0, 0)")
    photograph(page, path, 1700)
    page.close()


def main() -> None:
    """Serve the demo of a run, and photograph it and the run's report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshots", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("."), help="folder of a finished run")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
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

        command = [sys.executable, "-m", "app.demo", "--root", str(args.root), "--port", "{port}"]
        with served(command) as (address, _pid), sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
            photograph_report(browser, report, args.output / "report_page.png")
            photograph_demo(browser, address, args.output / "demo_page.png", args.label, args.seed)
            browser.close()
    print(f"wrote {args.output}/report_page.png and {args.output}/demo_page.png", file=sys.stderr)


if __name__ == "__main__":
    main()
