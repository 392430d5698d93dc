"""The tab Paint a defect and the report in a real browser: what a person sees, downloads and is told."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pipeline.params import Augment, Data, Params, Report
from pipeline.report.facts import Facts
from pipeline.report.page import render_report
from tests.app.conftest import metal
from tests.app.visitor import STEPS, Visit, grey, offline_report, pixels


def test_a_painted_defect_changes_the_picture_under_the_mask_and_nowhere_else(visit: Visit) -> None:
    visit.paint_and_draw(seed="7")  # with some seeds the untrained models draw nothing visible
    assert "Nothing visible" not in visit.page.inner_text("#words")
    brush = visit.brush()
    drawn, original = grey(visit.picture("drawn")), metal(0)
    assert np.array_equal(grey(visit.picture("original")), original)
    changed = drawn != original
    assert 0 < brush.mean() < 0.5
    assert changed[brush].any()
    assert not changed[ndimage.distance_transform_edt(~brush) > 8].any()
    assert "no pixel changed farther than 8 pixels" in visit.page.inner_text("#words")
    with Image.open(io.BytesIO(visit.file("tokens"))) as animation:
        assert getattr(animation, "n_frames", 1) == STEPS
    with zipfile.ZipFile(io.BytesIO(visit.download("get-zip"))) as archive:
        assert {"metal/train/good/000.png", "metal/test/patches/000.png"} <= set(archive.namelist())
        inside = pixels(archive.read("metal/test/patches/000.png"))
        mask = pixels(archive.read("metal/ground_truth/patches/000_mask.png"))
    assert np.array_equal(inside, drawn)
    assert set(np.unique(mask)) <= {0, 255}
    assert np.array_equal(pixels(visit.download("get-image")), drawn)
    assert np.array_equal(pixels(visit.download("get-mask")), mask)


def test_drawing_without_a_mask_or_with_text_as_seed_says_why(visit: Visit) -> None:
    visit.draw()
    assert "Paint a mask first" in visit.error()
    visit.page.reload()
    visit.wait_for_editor()
    visit.paint()
    visit.draw(seed="seven")
    assert "seed must be a whole number" in visit.error()


def test_a_mask_that_covers_the_whole_image_is_refused(visit: Visit) -> None:
    visit.paint_everything()
    visit.draw()
    assert "The mask covers the whole image" in visit.error()


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
    with offline_report(browser, tmp_path / "index.html", scheme) as page:
        assert re.search(r"near-duplicates", page.inner_text("main"))
