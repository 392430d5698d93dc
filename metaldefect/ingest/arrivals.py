"""New images in a folder: which of them may join a dataset, and why the others may not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from metaldefect.errors import RejectedFileError, UserError
from metaldefect.ingest.adapters import DatasetFiles, RawSample, read_dataset
from metaldefect.ingest.adapters.csv_table import find_tables
from metaldefect.ingest.levels import find_levels
from metaldefect.ingest.overview import look_at_image
from metaldefect.ingest.parallel import map_threads
from metaldefect.ingest.reading import read_image

# A camera with its cap on: every pixel has the same grey level, give or take its noise
FLAT_SPREAD = 0.5


@dataclass(frozen=True)
class Arrival:
    """An image that may join the dataset, with its mask if there is one."""

    path: Path
    label: str
    mask: Path | None
    sha256: str


@dataclass(frozen=True)
class Refusal:
    """A file that may not, with its mask if there is one; `reason` is for the person who put it there."""

    path: Path
    reason: str
    mask: Path | None = None


def examine_arrivals(
    inbox: Path, classes: Collection[str], dataset: Path, skip: Collection[Path] = ()
) -> tuple[list[Arrival], list[Refusal]]:
    """Check every image of a folder as `metaldefect check` does, and the batch with Great Expectations.

    Args:
        inbox: `<class>/<image>` with masks as the adapter `folder` finds them, or a CSV table with the
            columns path and label.
        classes: labels that the dataset knows.
        dataset: folder of the images that are there already.
        skip: files that are not complete yet; their images wait with them.
    """
    samples, files, refused = read_inbox(inbox)
    samples = [raw for raw in samples if raw.path not in skip and raw.mask not in skip]
    refused = [refusal for refusal in refused if refusal.path not in skip]
    levels = find_levels([raw.path for raw in samples])

    def look(raw: RawSample) -> dict[str, Any] | RejectedFileError:
        try:
            look_at_image(raw, files, levels)
            spread = float(read_image(raw, levels).std())
        except RejectedFileError as error:
            return error
        return {"label": raw.source_label, "sha256": sha256(raw.path), "grey_spread": spread}

    rows, usable = [], []
    for raw, found in zip(samples, map_threads(look, samples, "look at arrivals"), strict=True):
        if isinstance(found, dict):
            rows.append(found)
            usable.append(raw)
        else:
            refused.append(Refusal(raw.path, str(found), mask_file(raw)))
    reasons = failed_expectations(pd.DataFrame(rows), classes, existing(dataset, usable)) if rows else {}
    arrivals = []
    for index, (raw, row) in enumerate(zip(usable, rows, strict=True)):
        if index in reasons:
            refused.append(Refusal(raw.path, reasons[index], mask_file(raw)))
        else:
            arrivals.append(Arrival(raw.path, raw.source_label, mask_file(raw), row["sha256"]))
    return arrivals, refused


def read_inbox(inbox: Path) -> tuple[list[RawSample], DatasetFiles, list[Refusal]]:
    """The images that the folder's layout names, and the files that it refuses."""
    adapter = "csv_table" if find_tables(inbox) else "folder"
    try:
        samples, files = read_dataset(adapter, inbox)
    except UserError as error:
        return [], DatasetFiles(inbox, adapter), [Refusal(path, str(error)) for path in loose_files(inbox)]
    prefix = f"{files.source}/"
    refused = [
        Refusal(inbox / file.path.removeprefix(prefix), file.reason)
        for file in files.rejected
        if (inbox / file.path.removeprefix(prefix)).is_file()
    ]
    return samples, files, refused


def loose_files(inbox: Path) -> list[Path]:
    """Files that lie directly in the folder."""
    return sorted(path for path in inbox.iterdir() if path.is_file() and not path.name.startswith("."))


def mask_file(raw: RawSample) -> Path | None:
    """The image's mask, if it is a file."""
    return raw.mask if isinstance(raw.mask, Path) else None


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def existing(dataset: Path, arrivals: Iterable[RawSample]) -> dict[str, str]:
    """Images of a dataset that may equal an arrival, because they have its size: SHA-256 -> relative path."""
    sizes = {raw.path.stat().st_size for raw in arrivals}
    found = {}
    for folder, _, names in os.walk(dataset):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and path.stat().st_size in sizes:  # no link to nowhere, no pipe
                found[sha256(path)] = path.relative_to(dataset).as_posix()
    return found


def failed_expectations(
    table: pd.DataFrame, classes: Collection[str], known: dict[str, str]
) -> dict[int, str]:
    """Why rows of a batch are refused, by row number.

    Args:
        table: columns label, sha256, grey_spread (standard deviation of the grey levels).
        classes: labels that the dataset knows.
        known: paths of the dataset's images by SHA-256.
    """
    import great_expectations.expectations as gxe

    checked = table.reset_index(drop=True)
    checked["twin"] = checked["sha256"].map(known)
    checked["copies_before"] = checked.groupby("sha256").cumcount()
    listed = ", ".join(sorted(classes))
    expectations: list[tuple[Any, str]] = [
        (
            gxe.ExpectColumnValuesToBeInSet(column="label", value_set=sorted(classes)),
            f"its class {{label!r}} is none of {listed}: rename its folder, or add the class to data.classes",
        ),
        (
            gxe.ExpectColumnValuesToBeNull(column="twin"),
            "the same file is in the data already, as {twin}",
        ),
        (
            gxe.ExpectColumnValuesToBeBetween(column="copies_before", min_value=0, max_value=0),
            "the same file arrived twice",
        ),
        (
            gxe.ExpectColumnValuesToBeBetween(column="grey_spread", min_value=FLAT_SPREAD),
            "all pixels have the same grey level: is the cap on the camera?",
        ),
    ]
    rows_by_name = checked.to_dict("records")
    reasons: dict[int, str] = {}
    for (_, reason), rows in zip(expectations, unexpected_rows(checked, expectations), strict=True):
        for row in rows:
            reasons.setdefault(row, reason.format_map(rows_by_name[row]))
    return reasons


def unexpected_rows(table: pd.DataFrame, expectations: Sequence[tuple[Any, str]]) -> list[list[int]]:
    """The rows that fail each expectation, from Great Expectations."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    suite = context.suites.add(gx.ExpectationSuite(name="arrivals"))
    for expectation, reason in expectations:
        expectation.notes = reason
        suite.add_expectation(expectation)
    batch = (
        context.data_sources.add_pandas("arrivals")
        .add_dataframe_asset("arrivals")
        .add_batch_definition_whole_dataframe("all")
        .get_batch(batch_parameters={"dataframe": table})
    )
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    found = {getattr(each.expectation_config, "notes", None): each.result for each in outcome.results}
    return [list(map(int, found[reason].get("unexpected_index_list", ()))) for _, reason in expectations]
