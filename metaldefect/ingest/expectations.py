"""Great Expectations suites in code, for the merged sample table and for synthetic images.

The library's own Data Docs load about twenty files from five CDNs and stay empty offline. This module
therefore writes the results as one self-contained HTML page, plus JSON and Markdown.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment
from PIL import Image

from metaldefect.artifacts import atomic_file, write_json
from metaldefect.errors import UserError
from metaldefect.images import Channels
from metaldefect.ingest.splits import SPLITS

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

REQUIRED = (
    "path",
    "label",
    "source",
    "source_label",
    "split",
    "group",
    "scene",
    "sha256",
    "phash",
    "source_sha256",
)

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Expectations about the {{ report.name }} dataset</title>
<style>
body { max-width: 1000px; margin: 32px auto; padding: 0 20px; font: 16px/1.5 system-ui, sans-serif; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: 8px 14px 8px 0; text-align: left; vertical-align: top; border-bottom: 1px solid #8884; }
code { display: block; font-size: 12.5px; opacity: .7; overflow-wrap: anywhere; }
.ok { color: #12804a; } .failed { color: #c2371f; font-weight: 650; }
</style>
</head>
<body>
<h1>Expectations about the {{ report.name }} dataset</h1>
<p><span class="ok">{{ report.passed }} hold</span>,
<span class="{{ 'failed' if report.failed else 'ok' }}">{{ report.failed }} do not</span>.</p>
<table>
<thead><tr><th></th><th>expectation</th><th>found</th></tr></thead>
<tbody>
{% for result in report.results | sort(attribute="success") %}
<tr>
<td class="{{ 'ok' if result.success else 'failed' }}">{{ 'ok' if result.success else 'FAILED' }}</td>
<td>{{ result.expectation }}<code>{{ result.type }} {{ result.arguments | tojson }}</code></td>
<td>{{ result.found }}</td>
</tr>
{% endfor %}
</tbody>
</table>
</body>
</html>
"""


@dataclass(frozen=True)
class ExpectationResult:
    """The result of one expectation.

    Attributes:
        expectation: the requirement, as a sentence.
        success: whether the data meets it.
        found: what the data shows instead, if not.
        type: the expectation's name in Great Expectations.
        arguments: its arguments in Great Expectations.
    """

    expectation: str
    success: bool
    found: str
    type: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ValidationReport:
    """The results of all expectations about one dataset."""

    name: str
    results: list[ExpectationResult]

    @property
    def passed(self) -> int:
        """Number of expectations that hold."""
        return sum(result.success for result in self.results)

    @property
    def failed(self) -> int:
        """Number of expectations that do not hold."""
        return len(self.results) - self.passed

    def raise_if_failed(self) -> None:
        """Raise `ValidationFailedError`, listing every failed expectation, if there are any."""
        lines = [
            f"  {result.expectation} (found: {result.found})" for result in self.results if not result.success
        ]
        if lines:
            raise ValidationFailedError(
                f"{len(lines)} of {len(self.results)} expectations about the {self.name} dataset failed:\n"
                + "\n".join(lines)
            )


class ValidationFailedError(UserError):
    """The data does not meet the next stage's requirements; the message lists every failed expectation."""


def validate_merged(
    table: pd.DataFrame,
    folder: Path,
    classes: Sequence[str],
    image_size: int,
    expected_counts: dict[str, int] | None = None,
    channels: Channels = 1,
) -> ValidationReport:
    """Validate the merged sample table, including the actual size and mode of its image files.

    Args:
        table: the sample table.
        folder: base of the table's paths; the function reads every image's header.
        classes: exactly the labels that must occur.
        image_size: side of every image in pixels.
        expected_counts: number of images per class; None accepts any.
        channels: of every image.
    """
    import great_expectations.expectations as gxe

    checked = pd.concat([table.reset_index(drop=True), read_headers(table["path"].tolist(), folder)], axis=1)
    checked["splits_of_group"] = table.groupby("group")["split"].transform("nunique").to_numpy()
    checked["splits_of_scene"] = table.groupby("scene")["split"].transform("nunique").to_numpy()
    checked["splits_of_class"] = table.groupby("label")["split"].transform("nunique").to_numpy()
    expectations = [
        *(("no empty value in " + name, gxe.ExpectColumnValuesToNotBeNull(column=name)) for name in REQUIRED),
        *image_expectations(classes, image_size, channels),
        (
            f"`split` is one of {', '.join(SPLITS)}",
            gxe.ExpectColumnValuesToBeInSet(column="split", value_set=[*SPLITS]),
        ),
        (
            "no near-duplicate group lies in more than one split",
            gxe.ExpectColumnValuesToBeBetween(column="splits_of_group", min_value=1, max_value=1),
        ),
        (
            "no scene lies in more than one split",
            gxe.ExpectColumnValuesToBeBetween(column="splits_of_scene", min_value=1, max_value=1),
        ),
        (
            "every class lies in every split",
            gxe.ExpectColumnValuesToBeBetween(
                column="splits_of_class", min_value=len(SPLITS), max_value=len(SPLITS)
            ),
        ),
        (
            "SHA-256 sums have 64 hexadecimal digits",
            gxe.ExpectColumnValuesToMatchRegex(column="sha256", regex=r"^[0-9a-f]{64}$"),
        ),
        (
            "sampling weights are positive",
            gxe.ExpectColumnValuesToBeBetween(column="weight", min_value=0, strict_min=True),
        ),
        *count_expectations(checked, expected_counts or {}),
    ]
    return run_suite("merged", checked, expectations)


def validate_synthetic(
    table: pd.DataFrame,
    classes: Sequence[str],
    image_size: int,
    count_per_class: int,
    folder: Path | None = None,
    channels: Channels = 1,
) -> ValidationReport:
    """Validate a table of synthetic images.

    Args:
        table: with columns path, label, width, height, mode (Pillow's name) and sha256 (of the file; equal
            hashes mean that the sampler has collapsed).
        classes: exactly the labels that must occur.
        image_size: side of every image in pixels.
        count_per_class: number of images per class.
        folder: if given, width, height and mode come from the files below it instead of the table.
        channels: of every image.

    Raises:
        ValueError: the table lacks a column.
    """
    import great_expectations.expectations as gxe

    checked = table.reset_index(drop=True)
    if folder is not None:
        measured = read_headers(table["path"].tolist(), folder)
        checked = checked.drop(columns=["width", "height", "mode"], errors="ignore").join(measured)
    checked = checked.rename(columns={"width": "file_width", "height": "file_height", "mode": "file_mode"})
    for name in ("path", "label", "file_width", "file_height", "file_mode", "sha256"):
        if name not in checked:
            raise ValueError(f"the table of synthetic images lacks the column {name.removeprefix('file_')!r}")
    expectations = [
        *(
            ("no empty value in " + name, gxe.ExpectColumnValuesToNotBeNull(column=name))
            for name in ("path", "label")
        ),
        *image_expectations(classes, image_size, channels),
        ("no two images are equal", gxe.ExpectColumnValuesToBeUnique(column="sha256")),
        *count_expectations(checked, dict.fromkeys(classes, count_per_class)),
    ]
    return run_suite("synthetic", checked, expectations)


def image_expectations(
    classes: Sequence[str], image_size: int, channels: Channels
) -> list[tuple[str, Expectation]]:
    """Expectations common to all our image folders: classes, image size and mode, one row per file."""
    import great_expectations.expectations as gxe

    mode, kind = ("L", "grey") if channels == 1 else ("RGB", "colour")
    return [
        ("every path occurs once", gxe.ExpectColumnValuesToBeUnique(column="path")),
        (
            f"the classes are exactly {', '.join(classes)}",
            gxe.ExpectColumnDistinctValuesToEqualSet(column="label", value_set=[*classes]),
        ),
        *(
            (
                f"every image is {image_size} pixels in {name}",
                gxe.ExpectColumnValuesToBeBetween(
                    column=f"file_{name}", min_value=image_size, max_value=image_size
                ),
            )
            for name in ("width", "height")
        ),
        (
            f"every image is 8-bit {kind} (mode {mode})",
            gxe.ExpectColumnValuesToBeInSet(column="file_mode", value_set=[mode]),
        ),
    ]


def count_expectations(checked: pd.DataFrame, counts: dict[str, int]) -> list[tuple[str, Expectation]]:
    """Expectations on the exact number of images per class; adds one column per class to `checked`."""
    import great_expectations.expectations as gxe

    expectations: list[tuple[str, Expectation]] = []
    for number, (label, count) in enumerate(sorted(counts.items())):
        column = f"is_class_{number}"
        checked[column] = (checked["label"] == label).astype(int)
        expectations.append(
            (
                f"{count} images of {label}",
                gxe.ExpectColumnSumToBeBetween(column=column, min_value=count, max_value=count),
            )
        )
    return expectations


def read_headers(paths: Sequence[str], folder: Path) -> pd.DataFrame:
    """Read `file_width`, `file_height` and `file_mode` from image headers; empty for an empty path."""
    rows: list[tuple[int | None, int | None, str | None]] = []
    for path in paths:
        if not isinstance(path, str):
            rows.append((None, None, None))
            continue
        with Image.open(folder / path) as image:
            rows.append((*image.size, image.mode))
    return pd.DataFrame(rows, columns=["file_width", "file_height", "file_mode"])


def run_suite(
    name: str, table: pd.DataFrame, expectations: Sequence[tuple[str, Expectation]]
) -> ValidationReport:
    """Validate a table in an in-memory context that makes no network connections."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for sentence, expectation in expectations:
        expectation.notes = sentence
        suite.add_expectation(expectation)
    batch = (
        context.data_sources.add_pandas(name)
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe("all")
    )
    outcome = batch.get_batch(batch_parameters={"dataframe": table}).validate(suite)
    return ValidationReport(name, [describe(result) for result in outcome.results])


def describe(result: Any) -> ExpectationResult:
    """Describe one result of Great Expectations in words, with the same text in every run."""
    details = result.result or {}
    if result.success:
        found = "as expected"
    elif "partial_missing_list" in details:
        lists = {"not expected": "partial_unexpected_list", "missing": "partial_missing_list"}
        found = "; ".join(
            f"{word}: {', '.join(map(str, details[name][:5]))}"
            for word, name in lists.items()
            if details[name]
        )
    elif "observed_value" in details:
        found = str(details["observed_value"])
    elif "unexpected_count" in details:
        examples = ", ".join(str(value) for value in details["partial_unexpected_list"][:5])
        found = f"{details['unexpected_count']} of {details['element_count']} rows differ, such as {examples}"
    else:
        found = str((result.exception_info or {}).get("exception_message", "no result"))
    config = result.expectation_config
    arguments = {name: config.kwargs[name] for name in sorted(config.kwargs) if name != "batch_id"}
    return ExpectationResult(str(config.notes), bool(result.success), found, str(config.type), arguments)


def write(report: ValidationReport, directory: Path) -> None:
    """Write `expectations_<name>` as JSON, Markdown and self-contained HTML into a directory."""
    rows = [asdict(result) for result in report.results]
    content = {"dataset": report.name, "passed": report.passed, "failed": report.failed, "expectations": rows}
    write_json(directory / f"expectations_{report.name}.json", content)
    lines = [
        f"# Expectations about the {report.name} dataset",
        "",
        f"{report.passed} hold, {report.failed} do not.",
        "",
        "| | expectation | found |",
        "|---|---|---|",
        *(
            f"| {'ok' if r.success else 'FAILED'} | {cell(r.expectation)} | {cell(r.found)} |"
            for r in report.results
        ),
    ]
    with atomic_file(directory / f"expectations_{report.name}.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    with atomic_file(directory / f"expectations_{report.name}.html") as temporary:
        temporary.write_text(page.render(report=report), encoding="utf-8")


def cell(text: str) -> str:
    """Escape text for a Markdown table cell."""
    return text.replace("|", "\\|").replace("\n", " ")
