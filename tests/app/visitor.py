"""A person in front of the demo, in a real browser."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

SECONDS = 1000
TELEPHONE = 390  # px wide
PATIENCE = 90 * SECONDS  # on a machine that other programs slow down
STEPS = 2  # of MaskGIT: more take longer and show nothing else


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
        self.wait_for_editor()

    def wait_for_editor(self) -> None:
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

    def paint_everything(self, rows: int = 10) -> None:
        """One stroke to and fro over the whole image, which lies in the middle of the canvas."""
        box = self.page.locator("#editor canvas").first.bounding_box()
        ends = [box["x"] + share * box["width"] for share in (0.2, 0.8)]
        # A stroke that starts beside the image paints nothing
        self.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        self.page.mouse.down()
        for row in range(rows + 1):
            y = box["y"] + (0.05 + 0.9 * row / rows) * box["height"]
            self.page.mouse.move(ends[row % 2], y, steps=4)
            self.page.mouse.move(ends[(row + 1) % 2], y, steps=8)
        self.page.mouse.up()
        self.page.wait_for_timeout(0.5 * SECONDS)

    def draw(self, seed: str = "1") -> None:
        self.page.locator("#paint-steps input[type=number]").fill(f"{STEPS}")
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

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def source(self, name: str) -> str:
        """The address of a result's image."""
        return str(self.page.locator(f"#{name} img").get_attribute("src"))

    def file(self, name: str) -> bytes:
        """The image file of a result."""
        return bytes(self.context.request.get(self.source(name)).body())

    def picture(self, name: str) -> np.ndarray:
        """The pixels of a result."""
        return pixels(self.file(name))

    def brush(self) -> np.ndarray:
        """Where the result's mask was painted, `bool [H, W]`."""
        masked = self.picture("masked").astype(int)
        return np.asarray(masked[..., 0] > masked[..., 1] + 20)

    def download(self, button: str) -> bytes:
        """The file that a button downloads."""
        with self.page.expect_download() as waited:
            self.page.click(f"#{button}")
        return Path(waited.value.path()).read_bytes()

    def error(self) -> str:
        """The text of the error that the page shows."""
        return str(self.page.locator(".toast-body.error").first.inner_text())


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def grey(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 2 else picture[..., 0]


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


@contextmanager
def offline_report(browser: Any, file: Path, scheme: str = "light") -> Iterator[Any]:
    """A report in a browser without a network, on a telephone, its charts drawn.

    It stands there without a complaint of the browser, a serious fault, and a way to scroll sideways.
    """
    context = browser.new_context(color_scheme=scheme, viewport={"width": TELEPHONE, "height": 844})
    context.set_offline(True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_selector(".chart .barlayer path")
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") == TELEPHONE
    assert serious_faults(page) == []
    yield page
    assert complaints == []
    context.close()


def cut_off(page: Any) -> list[str]:
    """The beginnings of the elements that do not fit into their place, or into the width of the page."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((one) => one instanceof HTMLElement && one.getClientRects().length)
            .filter((one) => {
                const cuts = getComputedStyle(one).overflowX !== "visible";
                return (cuts && one.scrollWidth > one.clientWidth + 1)
                    || one.getBoundingClientRect().right > innerWidth + 1;
            })
            .map((one) => one.outerHTML.slice(0, 120))"""
    )
    return found
