"""The sample table: one row per image, with the same columns in every stage."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from metaldefect.artifacts import atomic_file
from metaldefect.errors import UserError
from metaldefect.images import U8

TABLE_NAME = "samples.parquet"
PNG_END = b"IEND\xaeB`\x82"  # the last bytes of every PNG file: an empty chunk and its checksum

COLUMNS = {
    "path": pa.string(),  # relative to the table's folder
    "label": pa.string(),
    "source": pa.string(),
    "source_label": pa.string(),
    "split": pa.string(),  # train, validation or test
    "group": pa.string(),  # images of one photograph; never in two splits
    "scene": pa.string(),  # images of one piece of metal, made of whole groups; never in two splits
    "width": pa.int32(),
    "height": pa.int32(),
    "sha256": pa.string(),  # of the file at `path`
    "phash": pa.string(),  # 64-bit perceptual hash of the image at `path`
    "mask_path": pa.string(),  # null if the mask is unknown
    "boxes": pa.string(),  # JSON list of boxes in pixels of this image
    "source_path": pa.string(),  # relative to the source dataset's folder
    "source_split": pa.string(),  # the publisher's split, null if there is none
    "source_sha256": pa.string(),  # of the publisher's file
    "weight": pa.float64(),  # sampling weight that balances classes, and sources within a class
}
AUGMENTED_COLUMNS = {**COLUMNS, "symmetry": pa.int8()}


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a sample table as Parquet, atomically; equal rows give equal bytes.

    Columns and types are those of `COLUMNS`, plus `symmetry` (int8, 0 to 7) if the table has it.
    """
    columns = AUGMENTED_COLUMNS if "symmetry" in table else COLUMNS
    arrays = [
        pa.array([None if pd.isna(value) else value for value in table[name].tolist()], type=kind)
        for name, kind in columns.items()
    ]
    content = pa.Table.from_arrays(arrays, schema=pa.schema(list(columns.items())))
    with atomic_file(path) as temporary:
        pq.write_table(content, temporary, compression="zstd")


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a sample table; unknown masks and source splits are None.

    Raises:
        UserError: the file does not exist or is not Parquet, or lacks columns, which the message names.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the stage that writes it")
    try:
        content = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from error
    missing = [name for name in COLUMNS if name not in content.column_names]
    if missing:
        raise UserError(f"{path} is not a sample table: it lacks {', '.join(missing)}")
    table = content.to_pandas()
    for name in ("mask_path", "source_split"):
        table[name] = table[name].astype(object).where(table[name].notna(), None)
    return table


def write_image_file(path: Path, image: U8, png_level: int = 1) -> str:
    """Write `uint8 [H, W]` or `[H, W, 3]` as 8-bit PNG; return the file's SHA-256 in hexadecimal.

    A complete file that a killed run left at `path` stays as it is. No other process may write to this
    folder meanwhile; it becomes an output as a whole, so single files need neither locks nor flushing.
    """
    if path.exists():
        content = path.read_bytes()
        if content.endswith(PNG_END):  # a power failure can cut a file short after its renaming
            return hashlib.sha256(content).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG", compress_level=png_level)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(encoded.getbuffer())
    os.replace(unfinished, path)
    return hashlib.sha256(encoded.getbuffer()).hexdigest()


def counts_of(values: pd.Series) -> dict[str, int]:
    """Number of rows of each value, sorted by value."""
    return {
        str(name): int(count)
        for name, count in sorted(values.value_counts().items(), key=lambda i: str(i[0]))
    }


def unique_names(plain: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Make names unique for every file: those that collide or had to be cleaned get a hash of their key.

    Characters other than ASCII letters, digits and `._- ` become `_`. Case-insensitive file systems treat
    `x.png` and `X.png` as one file, so these collide too.

    Args:
        plain: name of each file, its folders separated by slashes.
        keys: what tells the files apart, such as their paths in the source.
    """
    clean = [re.sub(r"[^A-Za-z0-9._ /-]", "_", name) for name in plain]
    counts = Counter(name.lower() for name in clean)
    return [
        name
        if counts[name.lower()] == 1 and name == given
        else f"{name}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:8]}"
        for name, given, key in zip(clean, plain, keys, strict=True)
    ]
