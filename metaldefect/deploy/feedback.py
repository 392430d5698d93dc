"""What operators say about logged images: from the service, or from a table."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pandas as pd
from pydantic import Field

from metaldefect.config import Config
from metaldefect.errors import UserError, printable
from metaldefect.inspection.layout import GOOD

FEEDBACK = "feedback.jsonl"
COLUMNS = ["id", "time", "defective", "label", "note", "path"]
LABEL = r"^([^./\\\x00-\x1f][^/\\\x00-\x1f]*)?$"  # it names a folder
WORDS = {
    GOOD: False, "ok": False, "normal": False, "0": False, "false": False,
    "defect": True, "defective": True, "bad": True, "nok": True, "1": True, "true": True,
}  # fmt: skip


class Feedback(Config):
    """An operator's verdict on one image.

    Attributes:
        id: that `/predict` answered, or was given.
        defective: whether the part shows a defect.
        label: the class of the defect, if known, by which its photograph can join the training.
        note: anything the operator wants to say.
    """

    id: str = Field(min_length=1, max_length=200)
    defective: bool
    label: str = Field(default="", max_length=100, pattern=LABEL)
    note: str = Field(default="", max_length=2000)


class FeedbackLog:
    """Appends verdicts to `feedback.jsonl` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FEEDBACK
        self._lock = threading.Lock()

    def add(self, feedback: Feedback) -> None:
        """Append one verdict; it is on disk when this returns."""
        row = {"time": datetime.now(UTC).isoformat(), **feedback.model_dump()}
        with self._lock, self.path.open("ab+") as stream:
            # After a power cut the last line may be torn, and must not swallow this one
            if stream.tell() and ends_otherwise(stream):
                stream.write(b"\n")
            stream.write(json.dumps(row).encode("ascii") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def ends_otherwise(stream: BinaryIO) -> bool:
    """Whether a file that is not empty ends with something else than a line break."""
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) != b"\n"


def read_feedback(log: Path, table: Path | None = None) -> pd.DataFrame:
    """Verdicts of a service's log folder and of a table: columns `COLUMNS`; one row per id.

    A later verdict on the same image replaces an earlier one, and the table replaces the log. `time` is when
    the service took a verdict; empty for those of the table. Lines that a power cut tore are left out.

    Args:
        log: folder of the service's log; it may hold no verdicts.
        table: CSV file with the columns id and verdict (good or defect), and where known label (class of the
            defect), path (of the photograph; relative ones start at the table's folder), and note.

    Raises:
        UserError: the table cannot be read.
    """
    rows: list[dict[str, object]] = []
    path = log / FEEDBACK
    if path.is_file():
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):  # not JSON, or not text
                row = json.loads(line)
                rows += [row] if isinstance(row, dict) and "id" in row else []
    if table is not None:
        rows += read_table(table)
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.fillna("").drop_duplicates("id", keep="last", ignore_index=True)


def read_table(path: Path) -> list[dict[str, object]]:
    """Rows of a CSV file with the columns id and verdict, and label, path and note where it has them."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    first = text.partition("\n")[0]
    # Not strict, an unclosed quote would swallow all further rows
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True
    )
    try:
        names = {name.strip().lower(): name for name in reader.fieldnames or () if name}
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        # The reader counts whole rows: the broken one follows
        raise UserError(f"{path}, line {reader.line_num + 1}: {error}; is a quote left open?") from error
    if missing := {"id", "verdict"} - names.keys():
        raise UserError(f"{path} lacks the column(s) {', '.join(sorted(missing))}: the first line names them")
    rows: list[dict[str, object]] = []
    for number, row in lines:
        name = (row[names["id"]] or "").strip()
        if not name:
            raise UserError(f"{path}, line {number}: the id is missing")
        word = (row[names["verdict"]] or "").strip().lower()
        if word not in WORDS:
            raise UserError(f"{path}, line {number}: verdict {printable(word)!r}, expected good or defect")
        more: dict[str, str] = {
            name: (row[names[name]] or "").strip() for name in ("label", "path", "note") if name in names
        }
        if not re.match(LABEL, more.get("label", "")):
            raise UserError(f"{path}, line {number}: {printable(more['label'])!r} is no name of a class")
        if more.get("path"):
            more["path"] = str(path.parent / more["path"])
        rows.append({"id": name, "defective": WORDS[word], **more})
    return rows
