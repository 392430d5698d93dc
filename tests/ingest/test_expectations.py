"""Every expectation can fail, and says what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metaldefect.ingest.expectations import (
    REQUIRED,
    ValidationFailedError,
    validate_merged,
    validate_synthetic,
    write,
)

CLASSES = ["pits", "scratches"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def table(folder: Path) -> pd.DataFrame:
    """Twelve valid rows: each class has two images in each split."""
    rows = []
    for n in range(12):
        path = f"{n}.png"
        Image.fromarray(np.full((20, 20), n, np.uint8)).save(folder / path)
        rows.append(
            {
                "path": path,
                "label": CLASSES[n % 2],
                "source": "own",
                "source_label": "x",
                "split": ("train", "validation", "test")[n // 2 % 3],
                "group": f"g{n}",
                "scene": f"s{n}",
                "width": 20,
                "height": 20,
                "sha256": f"{n:064x}",
                "phash": f"{n:016x}",
                "source_sha256": f"{n:064x}",
                "weight": 1.0,
            }
        )
    return pd.DataFrame(rows)


def change(table: pd.DataFrame, folder: Path, **cells: object) -> pd.DataFrame:
    """The table with some cells of its first row changed."""
    table = table.astype(dict.fromkeys(cells, object))
    for name, value in cells.items():
        table.at[0, name] = value
    return table


def write_other(folder: Path, image: Image.Image) -> None:
    image.save(folder / "0.png")


def failures(table: pd.DataFrame, folder: Path, counts: dict[str, int] | None = None) -> list[str]:
    report = validate_merged(table, folder, CLASSES, 20, counts)
    return sorted(result.expectation for result in report.results if not result.success)


def test_a_valid_table_passes(table, folder):
    report = validate_merged(table, folder, CLASSES, 20, {"pits": 6, "scratches": 6})
    assert (report.passed, report.failed) == (23, 0)
    report.raise_if_failed()


BROKEN = {
    "every path occurs once": {"path": "1.png"},
    "the classes are exactly pits, scratches": {"label": "rust"},
    "`split` is one of train, validation, test": {"split": "holdout"},
    "no near-duplicate group lies in more than one split": {"group": "g2"},
    "no scene lies in more than one split": {"scene": "s2"},
    "SHA-256 sums have 64 hexadecimal digits": {"sha256": "abc"},
    "sampling weights are positive": {"weight": 0.0},
    **{f"no empty value in {name}": {name: None} for name in REQUIRED},
}


@pytest.mark.parametrize("expectation", sorted(BROKEN))
def test_each_expectation_about_the_table_fails(table, folder, expectation):
    assert expectation in failures(change(table, folder, **BROKEN[expectation]), folder)


def test_every_expectation_has_a_dataset_that_breaks_it(table, folder):
    report = validate_merged(table, folder, CLASSES, 20, {"pits": 6})
    by_files = {"every image is 20 pixels in width", "every image is 20 pixels in height"}
    by_files |= {"every image is 8-bit grey (mode L)", "every class lies in every split", "6 images of pits"}
    assert {result.expectation for result in report.results} == set(BROKEN) | by_files


@pytest.mark.parametrize(
    ("image", "failed"),
    [
        (Image.new("L", (21, 20)), ["every image is 20 pixels in width"]),
        (Image.new("L", (20, 19)), ["every image is 20 pixels in height"]),
        (Image.new("RGB", (20, 20)), ["every image is 8-bit grey (mode L)"]),
    ],
)
def test_each_expectation_about_the_files_fails(table, folder, image, failed):
    write_other(folder, image)
    assert failures(table, folder) == failed


def test_a_class_without_a_split_and_wrong_counts_fail(table, folder):
    table.loc[table["split"] == "test", "split"] = "train"
    assert failures(table, folder, {"pits": 6, "scratches": 5}) == [
        "5 images of scratches",
        "every class lies in every split",
    ]


def test_the_error_lists_every_failure(table, folder):
    table = change(table, folder, label="rust", weight=-1.0)
    with pytest.raises(ValidationFailedError) as caught:
        validate_merged(table, folder, CLASSES, 20).raise_if_failed()
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("expectations about the merged dataset failed:")
    assert "  sampling weights are positive (found: 1 of 12 rows differ, such as -1.0)" in lines
    assert "  the classes are exactly pits, scratches (found: not expected: rust)" in lines


def test_a_class_that_lost_all_its_images_is_named(table, folder):
    only = table[table["label"] == "pits"]
    found = {r.expectation: r.found for r in validate_merged(only, folder, CLASSES, 20).results}
    assert found["the classes are exactly pits, scratches"] == "missing: scratches"


def test_synthetic_images(table, folder):
    drawn = table[["path", "label", "sha256"]]
    report = validate_synthetic(drawn, CLASSES, 20, 6, folder=folder)
    assert report.failed == 0
    measured = drawn.assign(width=20, height=20, mode="L")
    assert validate_synthetic(measured, CLASSES, 20, 6).passed == report.passed
    broken = change(measured, folder, sha256=f"{1:064x}", width=10, mode="RGB", label="scratches")
    report = validate_synthetic(broken, CLASSES, 20, 6)
    assert sorted(r.expectation for r in report.results if not r.success) == [
        "6 images of pits",
        "6 images of scratches",
        "every image is 20 pixels in width",
        "every image is 8-bit grey (mode L)",
        "no two images are equal",
    ]


def test_a_synthetic_table_without_sizes_is_an_error(table):
    with pytest.raises(ValueError, match="lacks the column 'mode'"):
        validate_synthetic(table, CLASSES, 20, 6)


def test_reports_are_json_markdown_and_a_page_without_network(table, folder, tmp_path):
    report = validate_merged(change(table, folder, weight=0.0), folder, CLASSES, 20)
    write(report, tmp_path / "reports")
    content = json.loads((tmp_path / "reports/expectations_merged.json").read_text())
    assert (content["passed"], content["failed"]) == (20, 1)
    text = (tmp_path / "reports/expectations_merged.md").read_text()
    assert "| FAILED | sampling weights are positive | 1 of 12 rows differ, such as 0.0 |" in text
    rule = {"column": "weight", "min_value": 0, "strict_min": True}
    broken = next(row for row in content["expectations"] if not row["success"])
    assert (broken["type"], broken["arguments"]) == ("expect_column_values_to_be_between", rule)
    page = (tmp_path / "reports/expectations_merged.html").read_text()
    assert page.count("<tr>") == 1 + 21
    assert page.index("FAILED") < page.index('class="ok">ok')
    assert "such as 0.0" in page
    assert not re.search(r"https?:|//|src=|url\(|<script|<link", page)


def test_a_page_shows_strange_values_as_text(table, folder, tmp_path):
    report = validate_merged(change(table, folder, label="<script>x</script>"), folder, CLASSES, 20)
    write(report, tmp_path / "reports")
    page = (tmp_path / "reports/expectations_merged.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
