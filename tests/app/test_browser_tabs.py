"""The other tabs and the card of the models in a real browser, and what axe-core finds."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.studio import Studio, decode_from_tokens, encode_to_tokens
from metaldefect.artifacts import read_json
from metaldefect.metrics.reconstruction import edges
from tests.app.conftest import metal
from tests.app.visitor import SECONDS, Visit, grey, pixels, serious_faults


def bright_spot(level: int, path: Path) -> Path:
    """An image that the detector scores (level - 120) / 100."""
    image = np.full((64, 64), 120, np.uint8)
    image[30:34, 30:34] = level
    Image.fromarray(image).save(path)
    return path


def test_whole_images_are_drawn_into_a_grid_and_a_zip(visit: Visit) -> None:
    visit.open_tab("Generate")
    visit.page.wait_for_timeout(1 * SECONDS)  # a field that was just drawn forgets what is typed into it
    for field in ("count", "steps"):
        visit.page.locator(f"#generate-{field} input[type=number]").fill("2")
        visit.page.locator(f"#generate-{field} input[type=number]").blur()
    visit.page.locator("#generate-seed textarea, #generate-seed input").fill("3")
    visit.page.wait_for_timeout(0.5 * SECONDS)
    visit.page.click("#generate")
    visit.page.wait_for_function("document.querySelectorAll('#grid .thumbnail-lg img').length == 2")
    with zipfile.ZipFile(io.BytesIO(visit.download("get-images"))) as archive:
        assert archive.namelist() == ["patches/000.png", "patches/001.png", "drawing.json"]
        inside = [pixels(archive.read(name)) for name in archive.namelist()[:2]]
        facts = json.loads(archive.read("drawing.json"))
    assert (facts["label"], facts["seed"], facts["steps"]) == ("patches", 3, 2)
    shown = visit.page.locator("#grid .thumbnail-lg img")
    for number, image in enumerate(inside):
        assert image.shape == (64, 64)
        address = str(shown.nth(number).get_attribute("src"))
        assert np.array_equal(grey(pixels(visit.context.request.get(address).body())), image)


def test_the_page_says_which_models_it_shows(visit: Visit, demo_root: Path) -> None:
    visit.page.get_by_role("button", name="The models, their data").click()
    visit.page.wait_for_selector("text=SHA-256")
    card = visit.page.locator("table").filter(has_text="SHA-256").inner_text()
    for name in ("vq", "maskgit"):
        assert read_json(demo_root / "models" / name / "config.json")["sha256"][:16] in card
    classes = read_json(demo_root / "models/maskgit/config.json")["classes"]
    assert ", ".join(classes) in card
    assert "up to 60 training images per class" in card


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
    visit.page.wait_for_selector("#compare-file .file-preview")  # its name stands there while it is uploaded
    visit.page.click("#compare")
    visit.page.wait_for_selector("#compare-1 img")
    first, second = (visit.page.inner_text(f"#compare-verdict-{number}") for number in range(2))
    assert first.startswith("this run, FP16: good, score 0.55")
    assert second.startswith("this run, INT8: defective, score 0.55")
    assert visit.picture("compare-0").shape == (64, 64, 3)


@pytest.mark.parametrize("tab", ["Paint a defect", "Generate", "Reconstruct", "Inspect", "Compare"])
def test_axe_finds_no_serious_fault_on_any_tab(visit: Visit, tab: str) -> None:
    visit.open_tab(tab)
    visit.page.wait_for_timeout(0.5 * SECONDS)
    assert serious_faults(visit.page) == []
