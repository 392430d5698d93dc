"""The tabs Reconstruct, Inspect and Compare in a real browser, and what axe-core finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from app.studio import Studio, decode_from_tokens, encode_to_tokens
from metaldefect.metrics.reconstruction import edges
from tests.app.conftest import metal
from tests.app.visitor import Visit, grey, serious_faults


def bright_spot(level: int, path: Path) -> Path:
    """An image that the detector scores (level - 120) / 100."""
    image = np.full((64, 64), 120, np.uint8)
    image[30:34, 30:34] = level
    Image.fromarray(image).save(path)
    return path


def test_a_reconstruction_stands_beside_its_original(visit: Visit, studio: Studio, tmp_path: Path) -> None:
    Image.fromarray(metal(0)).save(tmp_path / "metal.png")
    visit.open_tab("Reconstruct")
    visit.page.set_input_files("#reconstruct-file input[type=file]", tmp_path / "metal.png")
    visit.page.wait_for_selector("#reconstruct-3 img")
    words = visit.page.inner_text("#reconstruct-words")
    assert "SSIM" in words
    assert "Edge IoU" in words
    assert "64 tokens" in words
    tokens = encode_to_tokens(studio, metal(0))
    again = decode_from_tokens(studio, tokens, metal(0))
    for number, expected in enumerate((metal(0), again, edges(metal(0)) * 255, edges(again) * 255)):
        assert np.array_equal(grey(visit.picture(f"reconstruct-{number}")), expected)
    assert json.loads(visit.download("get-tokens")) == tokens.tolist()


def test_the_threshold_slider_changes_the_decision_at_once(visit: Visit, tmp_path: Path) -> None:
    visit.open_tab("Inspect")
    spot = bright_spot(190, tmp_path / "spot.png")  # score 0.7, threshold 0.6
    visit.page.set_input_files("#inspect-file input[type=file]", spot)
    visit.page.wait_for_function("document.querySelector('#decision').innerText.includes('DEFECTIVE')")
    field = visit.page.locator("#threshold input[type=number]")
    field.fill("0.9")
    field.blur()
    visit.page.wait_for_function("document.querySelector('#decision').innerText.includes('GOOD')")


def test_two_detectors_are_compared_by_their_own_thresholds(visit: Visit, tmp_path: Path) -> None:
    visit.open_tab("Compare")
    visit.page.click("#compare")
    assert "Choose or upload an image first" in visit.error()
    spot = bright_spot(175, tmp_path / "spot.png")  # score 0.55; the thresholds are 0.6 and 0.5
    visit.page.set_input_files("#compare-file input[type=file]", spot)
    visit.page.wait_for_selector("#compare-file >> text=spot")
    visit.page.click("#compare")
    visit.page.wait_for_selector("#compare-1 img")
    first, second = (visit.page.inner_text(f"#compare-verdict-{number}") for number in range(2))
    assert first.startswith("this run, FP16: good, score 0.55")
    assert second.startswith("this run, INT8: defective, score 0.55")
    assert visit.picture("compare-0").shape == (64, 64, 3)


def test_axe_finds_no_serious_fault_on_the_page(visit: Visit) -> None:
    assert serious_faults(visit.page) == []
