"""The manifest of drawn and inserted defects: one row per defect, enough to make each image again.

While a command runs it keeps one record per finished image in a hidden folder, so that a killed run goes on
where it was. The manifest and all annotations are written from these records at the end.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metaldefect.artifacts import atomic_file, read_json, sha256_file, write_json
from metaldefect.config import Config
from metaldefect.errors import UserError
from metaldefect.synthesis.formats.records import ImageRecord

MANIFEST = "manifest"
SETTINGS = "settings.json"
RECORDS = ".records"
FREE = {"output", "count"}  # settings that change no image that is there already

COLUMNS = {
    "image": pa.string(),  # path in the output; empty if nothing in it could be seen
    "image_sha256": pa.string(),
    "mask": pa.string(),  # path in the output; of all defects of the image
    "label": pa.string(),
    "number": pa.int32(),  # of the defect in its image, or of the drawn image in its class
    "method": pa.string(),
    "seed": pa.int64(),
    "canvas": pa.string(),  # absolute path of the normal image
    "canvas_sha256": pa.string(),
    "black": pa.float64(),  # level of the canvas that counts as black, and as white: those of all canvases
    "white": pa.float64(),
    "source": pa.string(),  # the real defect: path of its photograph, number in it
    "visible": pa.bool_(),  # null where nothing was compared: whole images have no original
    "note": pa.string(),  # why a defect was not written
    "contrast": pa.float64(),  # mean absolute change inside its mask, grey levels of 255
    "x": pa.int32(),  # of its box, pixels from 0
    "y": pa.int32(),
    "width": pa.int32(),
    "height": pa.int32(),
    "area": pa.int64(),  # pixels of its mask
    "dropped": pa.bool_(),  # by review
    "tokenizer_sha256": pa.string(),
    "maskgit_sha256": pa.string(),
    "defects_sha256": pa.string(),  # of all real defects that could be chosen
    "masks_sha256": pa.string(),  # of the user's masks that say where defects go
    "details": pa.string(),  # JSON: what was chosen at random
    "parameters": pa.string(),  # JSON: all settings, with absolute paths
    "version": pa.string(),  # of this package
}


class OutputImage(Config):
    """What a finished image leaves behind; `record` is None if it has no visible defect or no mask."""

    key: str
    rows: tuple[dict[str, Any], ...]
    record: ImageRecord | None = None


class Output:
    """A folder that is being filled, and its records.

    Args:
        folder: new, empty, or left by an earlier run with the same settings.
        settings: what shapes the result.
        inputs: hashes of models and real defects that shape it too.

    Raises:
        UserError: the folder holds something else, or results of other settings or models.
    """

    def __init__(self, folder: Path, settings: Config, inputs: Mapping[str, str]) -> None:
        self.folder = folder
        self.settings = settings.model_dump(mode="json")
        self.inputs = dict(inputs)
        content = {"settings": self.settings, "inputs": self.inputs, "version": version("metaldefect")}
        kept = folder / SETTINGS
        begun = any((folder / RECORDS).glob("*.json"))
        if kept.is_file() and begun:
            if different := differences(read_json(kept), content):
                raise UserError(
                    f"{folder} was made with other settings ({', '.join(different)}):"
                    " choose another --output, or delete it"
                )
        elif folder.is_dir() and any(path != kept for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty: choose another --output")
        else:
            write_json(kept, content)

    def __contains__(self, key: str) -> bool:
        return record_path(self.folder, key).is_file()

    def check_canvases(self, canvases: Mapping[str, Path]) -> None:
        """Check that the canvases of finished images have not changed since.

        Args:
            canvases: the canvas of each image by its key.

        Raises:
            UserError: some have; the message names the first.
        """
        changed = []
        for key, canvas in canvases.items():
            if key not in self:
                continue
            rows = read_json(record_path(self.folder, key))["rows"]
            if any(row["canvas_sha256"] != sha256_file(canvas) for row in rows):
                changed.append(canvas)
        if changed:
            raise UserError(
                f"{self.folder} holds defects in earlier versions of {len(set(changed))} image(s), such as"
                f" {changed[0]}: choose another --output, or delete it"
            )

    def row(self, **values: Any) -> dict[str, Any]:
        """One row of the manifest: these values, empty ones, and what all rows share."""
        empty: dict[str, Any] = dict.fromkeys(COLUMNS) | {"dropped": False}
        for name in ("image", "image_sha256", "mask", "canvas", "canvas_sha256", "source", "note"):
            empty[name] = ""
        shared = {
            "tokenizer_sha256": self.inputs.get("tokenizer", ""),
            "maskgit_sha256": self.inputs.get("maskgit", ""),
            "defects_sha256": self.inputs.get("defects", ""),
            "masks_sha256": self.inputs.get("masks", ""),
            "parameters": json.dumps(self.settings, sort_keys=True),
            "version": version("metaldefect"),
            "seed": self.settings["seed"],
            "method": self.settings["method"],
        }
        return empty | shared | values


def record_path(folder: Path, key: str) -> Path:
    """The file of a record; keys may hold any character."""
    return folder / RECORDS / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def keep_record(folder: Path, image: OutputImage) -> None:
    """Record a finished image; its files must be on disk."""
    write_json(record_path(folder, image.key), image.model_dump(mode="json"))


def differences(kept: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """Names of the settings and inputs that differ."""
    found = [] if kept.get("version") == content["version"] else ["version"]
    for part in ("settings", "inputs"):
        names = sorted((kept[part].keys() | content[part].keys()) - FREE)
        found += [name for name in names if kept[part].get(name) != content[part].get(name)]
    return found


def read_records(folder: Path) -> Iterator[OutputImage]:
    """All finished images of an output folder, sorted by key.

    Raises:
        UserError: the folder was not written by `draw` or `insert`, or by another version of them.
    """
    if not (folder / SETTINGS).is_file():
        raise UserError(f"{folder} was not made by `metaldefect draw` or `metaldefect insert`")
    found = [OutputImage.parse(read_json(path), str(path)) for path in (folder / RECORDS).glob("*.json")]
    yield from sorted(found, key=lambda image: image.key)


def write_manifest(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `manifest.parquet` and `manifest.csv`, atomically."""
    arrays = [pa.array([row[name] for row in rows], type=kind) for name, kind in COLUMNS.items()]
    table = pa.Table.from_arrays(arrays, schema=pa.schema(list(COLUMNS.items())))
    with atomic_file(folder / f"{MANIFEST}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    with (
        atomic_file(folder / f"{MANIFEST}.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_version(row: Mapping[str, Any]) -> None:
    """Check that this version of the package made a row's image: another one may draw other pixels.

    Raises:
        UserError: another version made it; the message names both.
    """
    installed = version("metaldefect")
    if row["version"] != installed:
        raise UserError(
            f"{row['image']} was made by metaldefect {row['version']}, and this is {installed}: only the same"
            " version makes it again"
        )


def check_made_again(row: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Check that an image that was made again is, as a file, the one of its row byte by byte.

    Args:
        row: of the manifest; one whose image was never written, because nothing in it could be seen, passes.
        write: writes the image to a path, as the run did.

    Raises:
        UserError: the SHA-256 differs: code, packages or processor are not those of the run.
    """
    if not row["image_sha256"]:
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / Path(row["image"]).name
        write(path)
        made = sha256_file(path)
    if made != row["image_sha256"]:
        raise UserError(
            f"{row['image']} cannot be made again here: this version of metaldefect or this machine draws"
            f" other pixels, or writes them otherwise (SHA-256 {made[:12]}, in the manifest"
            f" {row['image_sha256'][:12]})"
        )


def folder_digest(folder: Path) -> str:
    """SHA-256 of the names and bytes of all files in a folder, or of a single file."""
    if folder.is_file():
        return sha256_file(folder)
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        line = f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n"
        found.update(line.encode(errors="surrogateescape"))
    return found.hexdigest()
