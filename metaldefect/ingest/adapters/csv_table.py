"""The user's own table: a CSV file with one row per image, whatever the folders are called."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.image_files import IMAGE_SUFFIXES, REFUSED_SUFFIXES, is_hidden_name
from metaldefect.ingest.adapters.files import DatasetFiles, check_label
from metaldefect.ingest.adapters.records import RawSample
from metaldefect.inspection.layout import GOOD

NEEDED = ("path", "label")
COLUMNS = (*NEEDED, "mask", "group", "split")
SEPARATORS = ",;\t"  # spreadsheets of half of Europe write semicolons
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
HEADER_BYTES = 4096


def fits(root: Path) -> bool:
    """Whether a folder holds a table with the columns path and label."""
    return bool(find_tables(root))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read the table in the dataset's folder: columns path and label, and mask, group and split if known.

    Paths are relative to the table. Images labelled `good` have no defect. Images of one `group`, such as
    the number of a part, never lie in two splits; the detector is tested on all defects, also on one whose
    group has good images in its training.
    """
    tables = find_tables(files.root)
    if len(tables) != 1:
        found = ", ".join(printable(path.name) for path in tables) or "none"
        raise UserError(
            f"{files.root} must hold one CSV file whose first line names the columns path and label (and,"
            f" if known, mask, group and split); such files found: {found}"
        )
    table = CsvTable(files, tables[0])
    yield from table.samples()
    table.note_unlisted_images()


def find_tables(root: Path) -> list[Path]:
    """CSV files of a folder whose first line names the columns path and label."""
    found = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv" and path.is_file())
    return [path for path in found if not is_hidden_name(path.name) and is_table(path)]


def is_table(path: Path) -> bool:
    """Whether the first line of a file names the needed columns."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES).decode("utf-8-sig", "replace")
    first = head.splitlines()[0] if head else ""
    return set(NEEDED) <= set(column_names(first))


def column_names(line: str) -> list[str]:
    """Names of the columns in a table's first line, in lower case."""
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=separator_of(line)), [])]


def separator_of(line: str) -> str:
    """The character that separates most columns in a table's first line."""
    return max(SEPARATORS, key=line.count)


@dataclass
class CsvTable:
    """A table, and what its rows name.

    Attributes:
        files: the dataset.
        path: the CSV file.
        lines: first line that names each image.
        masks: mask files that rows name.
    """

    files: DatasetFiles
    path: Path
    lines: dict[Path, int] = field(default_factory=dict)
    masks: set[Path] = field(default_factory=set)

    def samples(self) -> Iterator[RawSample]:
        """Yield the image of each row; rows that cannot be used are rejected."""
        for line, row in self.rows():
            path: Path | None = None
            try:
                path = self.existing(row["path"], "image")
                if path in self.lines:
                    raise RejectedFileError(f"named again, after line {self.lines[path]}")
                self.lines[path] = line
                yield self.sample(path, row)
            except RejectedFileError as error:
                if path is None:
                    self.files.reject(self.path, f"line {line}: {error}")
                else:
                    self.files.reject(path, f"{self.path.name}, line {line}: {error}")

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Numbered rows by column; a row of another length is rejected, and an unreadable table."""
        try:
            text = self.files.read_text(self.path)
            first, _, _ = text.partition("\n")
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(first), strict=True)
            names = [name.strip().lower() for name in next(reader)]
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(names):
                    reason = f"line {reader.line_num}: {len(cells)} cells for {len(names)} columns"
                    self.files.reject(self.path, reason)
                    continue
                row = dict(zip(names, (cell.strip() for cell in cells), strict=True))
                yield reader.line_num, {name: row.get(name, "") for name in COLUMNS}
        except (csv.Error, RejectedFileError) as error:
            self.files.reject(self.path, str(error))

    def sample(self, path: Path, row: dict[str, str]) -> RawSample:
        """The image of one row.

        Raises:
            RejectedFileError: the label or split is impossible, or the mask does not exist.
        """
        label, split = row["label"], row["split"].lower()
        check_label(label)
        if split and split not in SPLITS:
            raise RejectedFileError(f"split {printable(split)!r} is none of {', '.join(SPLITS)}")
        mask = self.existing(row["mask"], "mask") if row["mask"] else None
        if mask is not None:
            self.masks.add(mask)
        is_normal = label.lower() == GOOD
        return RawSample(
            path=path,
            source=self.files.source,
            source_label=GOOD if is_normal else label,
            source_split=SPLITS.get(split),
            mask=mask,
            is_normal=is_normal,
            scene=row["group"] or None,
        )

    def existing(self, name: str, what: str) -> Path:
        """The image file that a cell names.

        Raises:
            RejectedFileError: it is missing, unsafe, or no image.
        """
        if not name:
            raise RejectedFileError(f"no {what}")
        path = self.files.named(self.path.parent, name)
        if not path.is_file():
            raise RejectedFileError(f"its {what} {printable(name)} does not exist")
        self.files.check(path)
        if path.suffix.lower() not in IMAGE_SUFFIXES | REFUSED_SUFFIXES:
            raise RejectedFileError(f"its {what} {printable(name)} is no image")
        return path

    def note_unlisted_images(self) -> None:
        """Note how many images of the folder no row names."""
        found = self.files.images(self.files.root, nested=True, others=True)
        unlisted = [path for path in found if path not in self.lines and path not in self.masks]
        if unlisted:
            self.files.note(
                self.path,
                f"names none of {len(unlisted)} further images, such as {self.files.relative(unlisted[0])}:"
                " they are left out",
            )
