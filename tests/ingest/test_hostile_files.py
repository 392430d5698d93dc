"""Files that nobody vouches for are refused with a reason, and nothing outside the root is read."""

from __future__ import annotations

import csv
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaldefect.errors import RejectedFileError
from metaldefect.image_files import read_pixels
from metaldefect.ingest.adapters import read_dataset
from metaldefect.ingest.adapters.voc import parse_annotation
from metaldefect.ingest.examine import DatasetSpec
from metaldefect.ingest.merge import InspectionSpec, MergeOptions, merge_datasets

BOX = (
    "<annotation><size><width>100</width><height>80</height></size><object><name>dent</name><bndbox>"
    "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>"
)
GREY = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 9) + b"IDAT" + bytes(9)


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def animated(path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]
    frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:])


def strip(path: Path) -> None:
    Image.fromarray(np.zeros((64, 4096), np.uint8)).save(path)


def deep_colour(path: Path) -> None:
    """A 16-bit RGB PNG, written by hand: Pillow would read its high bytes alone."""
    rows = zlib.compress((b"\x00" + bytes(6 * 64)) * 64)
    header = b"IHDR" + struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    parts = (header, b"IDAT" + rows, b"IEND")
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
            for chunk in parts
        )
    )


HOSTILE = {
    "zero.png": (lambda p: p.write_bytes(b""), "empty file"),
    "truncated.png": (truncated, "unreadable image"),
    "text.png": (lambda p: p.write_text("no image at all"), "unreadable image"),
    "deep_colour.png": (deep_colour, "16-bit colour: save it as TIFF, as 16-bit grey or as 8-bit colour"),
    "float.tif": (lambda p: Image.fromarray(GREY.astype(np.float32)).save(p), "more than 8 bits per pixel"),
    "int32.tif": (lambda p: Image.fromarray(GREY.astype(np.int32)).save(p), "more than 8 bits per pixel"),
    "cmyk.jpg": (lambda p: Image.fromarray(GREY).convert("CMYK").save(p), "mode CMYK"),
    "alpha.png": (lambda p: Image.fromarray(np.dstack([GREY] * 4)).save(p), "transparent pixels"),
    "film.gif": (lambda p: Image.fromarray(GREY).save(p), "GIF image"),
    "animated.png": (animated, "file of 2 pages or frames"),
    "dot.png": (lambda p: Image.new("L", (1, 1)).save(p), "1x1 is smaller than 16x16"),
    "strip.png": (strip, "4096x64 is a strip, which resizing to a square would squash"),
    "bomb.png": (lambda p: p.write_bytes(png_header(30_000, 30_000)), "pixels: scale it down"),
    "large.png": (lambda p: p.write_bytes(png_header(8_000, 8_000)), "8000x8000 is more than"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_images_that_are_refused(tmp_path, name):
    make, reason = HOSTILE[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(RejectedFileError) as caught:
        read_pixels(path)
    assert reason in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, save) -> Path:
    save(tmp_path / "set/pits/fine.png", GREY)
    return tmp_path / "set"


def refused(root: Path) -> dict[str, str]:
    samples, files = read_dataset("folder", root)
    assert [s.path.name for s in samples] == ["fine.png"]
    return {r.path: r.reason for r in files.rejected}


def test_links_that_leave_the_root(folder, save):
    outside = save(folder.parent / "outside/secret.png", GREY)
    (folder / "pits/link.png").symlink_to(outside)
    (folder / "pits/broken.png").symlink_to(folder / "nothing.png")
    (folder / "scratches").symlink_to(outside.parent)
    assert refused(folder) == {
        "folder/pits/link.png": "symbolic link that leaves the dataset's folder: copy the file into it",
        "folder/pits/broken.png": "broken symbolic link",
        "folder/scratches": "symbolic link that leaves the dataset's folder: copy the file into it",
    }


def test_a_pipe_is_refused_before_it_is_opened(tmp_path, save):
    save(tmp_path / "IMAGES/crazing_1.jpg", GREY)
    os.mkfifo(tmp_path / "IMAGES/crazing_2.jpg")
    os.mkfifo(tmp_path / "crazing_1.xml")
    samples, files = read_dataset("neu_det", tmp_path)
    assert len(samples) == 1
    assert sorted((r.path, r.reason) for r in files.rejected) == [
        ("neu_det/IMAGES/crazing_2.jpg", "neither a file nor a folder"),
        ("neu_det/crazing_1.xml", "neither a file nor a folder"),
    ]


def test_each_hostile_file_has_a_row_and_counts(folder, inspection_folder, texture, save):
    root = folder.parent / "all"
    for label in ("pits", "scratches"):
        for k in range(4):
            save(root / label / f"{k}.png", texture(50 * len(label) + k))
    for name, (make, _) in HOSTILE.items():
        make(root / "pits" / name)
    result = merge_datasets(
        [DatasetSpec("folder", root, {"pits": "pits", "scratches": "scratches"})],
        InspectionSpec("mvtec_ad", inspection_folder),
        folder.parent / "merged",
        folder.parent / "reports",
        MergeOptions(["pits", "scratches"], 32, 0.2, 0.2, seed=0, max_rejected=len(HOSTILE)),
    )
    with (folder.parent / "merged/rejected.csv").open() as stream:
        rows = {row["path"]: row["reason"] for row in csv.DictReader(stream)}
    assert result.summary["total"] == 8
    assert result.summary["rejected"] == len(rows) == 14
    assert all(reason in rows[f"folder/pits/{name}"] for name, (_, reason) in HOSTILE.items())


@pytest.mark.parametrize(
    ("table", "reason", "refused"),
    [
        (
            b'ImageId,ClassId,EncodedPixels\na.jpg,1,"' + b"1 " * 100_000 + b'"\n',
            "field larger than",
            "no row",
        ),
        (b"\xff\xfe\x00", "text file that is not UTF-8", "no row"),
        (b"ImageId,ClassId,EncodedPixels\na.jpg,1," + b"9" * 5000 + b" 1\n", "line 2: ValueError", "its row"),
        (b"ImageId,ClassId,EncodedPixels\na.jpg,1,1 2 3\n", "line 2: ValueError", "its row"),
        (b"ImageId,ClassId,EncodedPixels\na.jpg,1\n", "line 2: ValueError too few columns", "its row"),
        (b"something,else\n1,2\n", "line 2: KeyError 'ImageId'", "no row"),
    ],
)
def test_no_severstal_image_is_normal_because_its_row_is_broken(tmp_path, save, table, reason, refused):
    save(tmp_path / "train_images/a.jpg", GREY)
    (tmp_path / "train.csv").write_bytes(table)
    samples, files = read_dataset("severstal", tmp_path)
    assert samples == []
    reasons = {r.path: r.reason for r in files.rejected}
    assert reason in reasons["severstal/train.csv"]
    assert reasons["severstal/train_images/a.jpg"].startswith(refused)


def test_a_link_inside_the_root_is_read(folder):
    (folder / "pits/again.png").symlink_to(folder / "pits/fine.png")
    samples, files = read_dataset("folder", folder)
    assert [s.path.name for s in samples] == ["again.png", "fine.png"]
    assert files.rejected == []


def test_names_of_any_bytes_are_read_and_shown_escaped(folder, save):
    save(folder / "pits/new\nline.png", GREY)
    save(folder / "pits/größe.png", GREY)
    save(folder / "pits/x.png", GREY)
    os.rename(folder / "pits/x.png", os.path.join(os.fsencode(folder / "pits"), "划.png".encode("gbk")))
    samples, files = read_dataset("folder", folder)
    assert sorted(files.relative(s.path) for s in samples) == [
        "pits/\\xbb\\xae.png",
        "pits/fine.png",
        "pits/größe.png",
        "pits/new\\nline.png",
    ]


def test_what_is_no_image_is_refused_and_desktop_files_are_not(folder):
    (folder / "pits/notes.txt").write_text("hello")
    (folder / "pits/.DS_Store").write_text("x")
    (folder / "pits/Thumbs.db").write_text("x")
    assert refused(folder) == {"folder/pits/notes.txt": "not an image: unknown file type '.txt'"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "forbidden XML"),
        ('<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><a>&y;</a>', "forbidden XML"),
        ("<annotation><object>", "broken XML"),
        ("<annotation><filename>/etc/passwd</filename></annotation>", "outside its folder"),
        ("<annotation><filename>../../x.jpg</filename></annotation>", "outside its folder"),
        ("<annotation><filename>..\\x.jpg</filename></annotation>", "outside its folder"),
        ("<annotation><filename>C:\\x.jpg</filename></annotation>", "outside its folder"),
        (
            "<annotation><object><bndbox><xmin>nan</xmin></bndbox></object></annotation>",
            "without a number in <xmin>",
        ),
        (BOX.format(60, 60, 5, 5), r"box 'dent' \(60, 60, 5, 5\) has its corners swapped"),
        (BOX.format(50, 10, 101, 50), r"box 'dent' \(50, 10, 101, 50\) leaves its image of 100x80 pixels"),
        (BOX.format(-1, 10, 100, 50), "leaves its image"),
    ],
)
def test_annotations_that_are_refused(text, reason):
    with pytest.raises(RejectedFileError, match=reason):
        parse_annotation(text)


def test_a_refused_annotation_is_listed_and_its_image_stays(tmp_path, save):
    save(tmp_path / "IMAGES/crazing_1.jpg", GREY)
    (tmp_path / "crazing_1.xml").write_text("<annotation><filename>../x</filename></annotation>")
    samples, files = read_dataset("neu_det", tmp_path)
    assert [s.boxes for s in samples] == [()]
    assert [r.path for r in files.rejected] == ["neu_det/crazing_1.xml"]
