"""PASCAL VOC annotations from files that nobody vouches for."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from metaldefect.ingest.adapters.files import DatasetFiles, natural_key, printable
from metaldefect.ingest.adapters.records import Box, RejectedFileError


def index_annotations(files: DatasetFiles) -> dict[str, Path]:
    """XML files anywhere under the root by stem; a file in the wrong split's folder is found as well."""
    index: dict[str, Path] = {}
    found = (path for path in files.root.rglob("*") if path.suffix.lower() == ".xml")
    for path in sorted(found, key=lambda p: natural_key(files.relative(p))):
        if not files.accepts(path):
            continue
        if path.stem in index:
            files.reject(
                path, f"a second annotation of {path.stem}: the first is {files.relative(index[path.stem])}"
            )
            continue
        index[path.stem] = path
    return index


def read_boxes(files: DatasetFiles, path: Path) -> tuple[Box, ...]:
    """The boxes of one VOC file; a refused file is recorded and has none."""
    try:
        return parse_boxes(files.read_text(path))
    except RejectedFileError as error:
        files.reject(path, str(error))
        return ()


def parse_boxes(text: str) -> tuple[Box, ...]:
    """Parse VOC XML without entities, DTDs or outside references.

    Images are found by the annotation's own file name, so paths inside the XML are never opened;
    a `<filename>` that tries to leave the folder is refused all the same.

    Raises:
        RejectedFileError: forbidden or broken XML, or a box without numbers.
    """
    try:
        root = fromstring(text, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        raise RejectedFileError(f"forbidden XML: {type(error).__name__}") from error
    except (ParseError, ValueError) as error:
        raise RejectedFileError(f"broken XML: {printable(str(error))}") from error
    check_filename(root.findtext("filename") or "")
    return tuple(parse_object(item) for item in root.iter("object"))


def check_filename(name: str) -> None:
    """Refuse a `<filename>` that is absolute or climbs out of its folder."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or name.strip()[1:2] == ":":
        raise RejectedFileError(f"annotation names a file outside its folder: {printable(name.strip())}")


def parse_object(item: Element) -> Box:
    """One `<object>` as a box."""
    corners = []
    for name in ("xmin", "ymin", "xmax", "ymax"):
        text = item.findtext(f"bndbox/{name}")
        try:
            corners.append(round(float(text or "")))
        except (ValueError, OverflowError) as error:
            raise RejectedFileError(f"box without a number in <{name}>: {text!r}") from error
    return Box((item.findtext("name") or "").strip(), *corners)
