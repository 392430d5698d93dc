"""Whatever a folder holds: each image is read, refused by name or counted, and `check` describes it."""

from __future__ import annotations

import io
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from metaldefect.commands.check import describe, write_page
from metaldefect.errors import UserError
from metaldefect.image_files import IMAGE_SUFFIXES, REFUSED_SUFFIXES, is_hidden_name
from metaldefect.ingest.adapters import read_dataset, recognise
from metaldefect.ingest.overview import look_at

GBK = os.fsdecode("划痕".encode("gbk"))
FOLDERS = [
    "good",
    "Good",
    "dent",
    "masks",
    "ground_truth",
    "line 1",
    "früh",
    GBK,
    "new\nline",
    "x.png",
    ".git",
]
STEMS = ["a", "A", "b", "a_mask", "a.png_mask", "._a", GBK, "größe", "tab\there", "n" * 200, "{{ 1 }}<b>"]
SUFFIXES = [".png", ".PNG", ".jpg", ".bmp", ".tif", ".gif", ".webp", ".txt", ""]


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunks + struct.pack(">I", 9) + b"IDAT" + bytes(9)


RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (48, 64)).astype(np.uint8)
MASK = np.zeros((48, 64), np.uint8)
MASK[10:20, 10:20] = 255
ALL_RED = np.zeros((48, 64, 3), np.uint8) + np.uint8([200, 0, 0])
CONTENTS = {
    "grey": encoded(GREY, "PNG"),
    "colour": encoded(RNG.integers(0, 256, (40, 40, 3)).astype(np.uint8), "JPEG"),
    "flat": encoded(ALL_RED, "BMP"),
    "deep": encoded(GREY.astype(np.uint16) * 16, "TIFF"),
    "float": encoded(GREY.astype(np.float32), "TIFF"),
    "infinite": encoded(np.full((48, 64), np.inf, np.float32), "TIFF"),
    "film": encoded(GREY, "GIF"),
    "dot": encoded(GREY[:4, :4], "PNG"),
    "mask": encoded(MASK, "PNG"),
    "empty mask": encoded(MASK * 0, "PNG"),
    "unclear mask": encoded(np.where(MASK > 0, 100, 50).astype(np.uint8), "PNG"),
    "bomb": header(30_000, 30_000),
    "truncated": encoded(GREY, "PNG")[:900],
    "text": b"no image",
    "nothing": b"",
}
ENTRY = st.tuples(
    st.lists(st.sampled_from(FOLDERS), max_size=3),
    st.sampled_from(STEMS),
    st.sampled_from(SUFFIXES),
    st.sampled_from(sorted(CONTENTS)),
)


def write_tree(root: Path, entries: list[tuple[list[str], str, str, str]]) -> None:
    """Write the entries; one whose place is taken is left out."""
    for folders, stem, suffix, content in entries:
        path = root.joinpath(*folders, stem + suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENTS[content])
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue


def visible_images(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if is_hidden_name(path.name):
            continue
        if path.is_dir():
            yield from visible_images(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES | REFUSED_SUFFIXES:
            yield path


@example(
    [
        (["good"], "a", ".png", "grey"),
        (["good"], "a_mask", ".png", "mask"),
        (["masks", "good"], "a", ".png", "mask"),
    ]
)
@given(st.lists(ENTRY, min_size=1, max_size=12))
@settings(max_examples=120, deadline=None)
def test_every_image_of_any_folder_is_read_refused_or_counted(entries):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_tree(root, entries)
        try:
            samples, files = read_dataset("folder", root)
        except UserError:  # neither classes nor images
            return
        images = {files.display_name(path) for path in visible_images(root)}
        read = [files.display_name(sample.path) for sample in samples]
        masks = [files.display_name(sample.mask) for sample in samples if isinstance(sample.mask, Path)]
        named = {item.path for item in [*files.rejected, *files.notes]}
        assert len({*read, *masks}) == len(read) + len(masks)
        assert {*read, *masks} <= images
        assert not {*read, *masks} & named
        counts = [re.match(r"holds (\d+) image", note.reason) for note in files.notes]
        assert len(images) - len(images & {*read, *masks, *named}) == sum(int(c[1]) for c in counts if c)
        assert all(sample.is_normal == (sample.source_label == "good") for sample in samples)
        assert all(f"{item.path} {item.reason}".isprintable() for item in [*files.rejected, *files.notes])


@given(st.lists(ENTRY, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_check_describes_any_folder(entries):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / GBK
        root.mkdir()
        write_tree(root, entries)
        try:
            recognise(root)
            samples, files = read_dataset("folder", root)
        except UserError:
            return
        seen = look_at(root, "folder")
        read = {files.display_name(sample.path) for sample in samples}
        refused = {item.path for item in seen.rejected}
        assert sum(seen.classes.values()) + len(read & refused) == len(samples)
        assert {item.path for item in files.rejected} <= refused
        text = describe(seen)
        assert text.replace("\n", "").isprintable()
        write_page(seen, Path(name) / "page.html")
        page = (Path(name) / "page.html").read_text(encoding="utf-8")
        assert "<b>" not in page
