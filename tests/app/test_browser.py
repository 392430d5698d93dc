"""The demo and the report in a real browser: what a person sees, downloads and is told."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from scipy import ndimage

from pipeline.params import Augment, Data, Params, Report
from pipeline.report.facts import Facts
from pipeline.report.page import render_report
from tests.app.conftest import metal

SECONDS = 1000
PATIENCE = 30 * SECONDS


class Visit:
    """One person's tab: its own session, and what the browser complained about."""

    def __init__(self, browser: Any, address: str) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 1500})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.outside: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.note(request.url, address))
        self.page.goto(address)
        self.page.wait_for_selector("#editor canvas")
        self.page.wait_for_timeout(1 * SECONDS)  # the editor paints its picture after its canvas appears

    def note(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.outside.append(url)

    def paint(self, left: float = 0.4, top: float = 0.4) -> None:
        """One stroke across a part of the canvas, given in shares of its size."""
        box = self.page.locator("#editor canvas").first.bounding_box()
        x, y = box["x"] + left * box["width"], box["y"] + top * box["height"]
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 0.15 * box["width"], y + 0.1 * box["height"], steps=6)
        self.page.mouse.up()
        self.page.wait_for_timeout(0.5 * SECONDS)

    def draw(self, seed: str = "1") -> None:
        self.page.locator("#paint-steps input[type=number]").fill("2")
        self.page.get_by_label("Seed").first.fill(seed)
        self.page.click("#draw")

    def paint_and_draw(self, left: float = 0.4, top: float = 0.4, seed: str = "1") -> None:
        """Paint and draw until a result appears: a slow machine's editor misses the first stroke."""
        for _ in range(4):
            self.paint(left, top)
            self.draw(seed)
            self.page.wait_for_selector("#after img, .toast-body.error")
            if self.page.locator("#after img").count():
                return
            self.page.wait_for_selector(".toast-body.error", state="detached")
        raise AssertionError("the editor took no stroke")

    def picture(self, name: str) -> np.ndarray:
        """The pixels of a result."""
        source = self.page.locator(f"#{name} img").get_attribute("src")
        return np.asarray(Image.open(io.BytesIO(self.context.request.get(source).body())))

    def error(self) -> str:
        """The text of the error that the page shows."""
        return str(self.page.locator(".toast-body.error").first.inner_text())


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    opened = Visit(browser, address)
    yield opened
    assert opened.complaints == []
    assert opened.outside == []
    opened.context.close()


def grey(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 2 else picture[..., 0]


def test_a_painted_defect_changes_the_picture_under_the_mask_and_nowhere_else(visit: Visit) -> None:
    visit.paint_and_draw()
    masked = visit.picture("masked").astype(int)
    brush = masked[..., 0] > masked[..., 1] + 20
    drawn, original = grey(visit.picture("drawn")), metal(0)
    assert np.array_equal(grey(visit.picture("original")), original)
    changed = drawn != original
    assert 0 < brush.mean() < 0.5
    assert changed[brush].any()
    assert not changed[ndimage.distance_transform_edt(~brush) > 8].any()
    assert "no pixel changed farther than 8 pixels" in visit.page.inner_text("#words")
    with visit.page.expect_download() as waited:
        visit.page.click("#get-zip")
    with zipfile.ZipFile(waited.value.path()) as archive:
        assert {"metal/train/good/000.png", "metal/test/patches/000.png"} <= set(archive.namelist())
        inside = np.asarray(Image.open(io.BytesIO(archive.read("metal/test/patches/000.png"))))
        mask = np.asarray(Image.open(io.BytesIO(archive.read("metal/ground_truth/patches/000_mask.png"))))
    assert np.array_equal(inside, drawn)
    assert set(np.unique(mask)) <= {0, 255}


def test_drawing_without_a_mask_or_with_text_as_seed_says_why(visit: Visit) -> None:
    visit.draw()
    assert "Paint a mask first" in visit.error()
    visit.page.reload()
    visit.page.wait_for_selector("#editor canvas")
    visit.page.wait_for_timeout(1 * SECONDS)
    visit.paint()
    visit.draw(seed="seven")
    assert "seed must be a whole number" in visit.error()


def test_a_text_file_is_refused_and_a_colour_photograph_is_worked_with(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    visit.page.set_input_files("#upload input[type=file]", tmp_path / "notes.txt")
    assert "notes.txt" in visit.error()
    colours = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(colours).resize((4000, 3000)).save(tmp_path / "photo.jpg")
    visit.page.reload()
    visit.page.wait_for_selector("#upload input[type=file]", state="attached")
    visit.page.set_input_files("#upload input[type=file]", tmp_path / "photo.jpg")
    visit.page.wait_for_function("document.querySelector('#words').innerText.includes('shrunk')")
    words = visit.page.inner_text("#words")
    assert "colour picture" in words
    assert "unlike anything" in words
    assert "from 4000 × 3000 to 1024 × 768" in words


def test_two_users_at_once_get_their_own_results(browser: Any, address: str) -> None:
    first, second = Visit(browser, address), Visit(browser, address)
    first.paint(0.35, 0.35)
    second.paint(0.5, 0.5)
    first.draw("1")  # both wait in the queue at once
    second.draw("2")
    first.page.wait_for_selector("#after img, .toast-body.error")
    first.paint_and_draw(0.35, 0.35, "1")
    second.paint_and_draw(0.5, 0.5, "2")
    centres = []
    for visit in (first, second):
        masked = visit.picture("masked").astype(int)
        centres.append(np.argwhere(masked[..., 0] > masked[..., 1] + 20).mean(axis=0))
        visit.context.close()
    assert (centres[0] + 3 < centres[1]).all()


def test_the_threshold_slider_changes_the_decision_at_once(visit: Visit, tmp_path: Path) -> None:
    image = np.full((64, 64), 120, np.uint8)
    image[30:34, 30:34] = 190  # score 0.7, threshold 0.6
    Image.fromarray(image).save(tmp_path / "spot.png")
    visit.page.get_by_role("tab", name="Inspect").click()
    visit.page.set_input_files("#inspect-file input[type=file]", tmp_path / "spot.png")
    visit.page.wait_for_function("document.querySelector('#decision').innerText.includes('DEFECTIVE')")
    field = visit.page.locator("#threshold input[type=number]")
    field.fill("0.9")
    field.blur()
    visit.page.wait_for_function("document.querySelector('#decision').innerText.includes('GOOD')")


def serious_faults(page: Any) -> list[str]:
    """What axe-core calls serious or critical."""
    # Gradio labels its empty image fields in a way that axe forbids; screen readers ignore the label
    found = Axe().run(page, context={"exclude": [[".empty"]]}).response["violations"]
    return [
        f"{item['id']}: {node['html'][:120]}"
        for item in found
        for node in item["nodes"]
        if item["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_opens_offline_without_an_error(browser: Any, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {merge: {cmd: python -m stages.merge, outs: [data]}}\n")
    (tmp_path / "metrics").mkdir()
    splits = {"train": {"dent": 2}, "test": {"dent": 1}}
    merged = {"total": 3, "per_class": {"dent": 3}, "per_split_and_class": splits}
    (tmp_path / "metrics/merge.json").write_text(json.dumps(merged))
    params = Params.model_construct(
        seed=0, data=Data(root=Path("data/sample"), channels=1, classes=["dent"]),
        report=Report(title="Plant"),
        augment=Augment(png_level=1, photometric=False),
    )  # fmt: skip
    facts = Facts("2026-11-26 03:11 UTC", "7e62c17f2d", "cpu", "two cores", "abc.dir", procedural=True)
    (tmp_path / "index.html").write_text(render_report(tmp_path, params, facts), encoding="utf-8")
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})
    context.set_offline(True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector(".chart .barlayer path")
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    text = page.inner_text("main")
    assert re.search(r"near-duplicates", text)
    assert serious_faults(page) == []
    context.close()


def test_axe_finds_no_serious_fault_on_the_page(visit: Visit) -> None:
    assert serious_faults(visit.page) == []
