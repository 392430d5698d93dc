"""Read PASCAL VOC annotations from untrusted files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from metaldefect.errors import RejectedFileError, printable
from metaldefect.image_files import is_hidden_name
from metaldefect.ingest.adapters.files import DatasetFiles, natural_key
from metaldefect.ingest.adapters.records import Box


def index_annotations(files: DatasetFiles) -> dict[str, Path]:
    """Index all XML files under the root by stem; this also finds files in the wrong split's folder."""
    index: dict[str, Path] = {}
    found = (path for path in files.root.rglob("*") if path.suffix.lower() == ".xml")
    for path in sorted(found, key=lambda p: natural_key(files.relative(p))):
        if any(is_hidden_name(part) for part in path.relative_to(files.root).parts):
            continue
        if not files.accepts(path):
            continue
        if path.stem in index:
            files.reject(
                path, f"a second annotation of {path.stem}: the first is {files.relative(index[path.stem])}"
            )
            continue
        index[path.stem] = path
    return index


def reject_unused(files: DatasetFiles, annotations: Mapping[str, Path], images: Collection[Path]) -> None:
    """Reject the annotations of images that are not there: whoever renamed an image lost its boxes."""
    stems = {path.stem for path in images}
    for stem, path in annotations.items():
        if stem not in stems:
            files.reject(path, "annotation without its image")


@dataclass(frozen=True)
class Annotation:
    """What one VOC file says.

    Attributes:
        boxes: the defects.
        size: height and width of the image that they were drawn on; None if the file does not say.
    """

    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None


def read_annotation(
    files: DatasetFiles, path: Path | None, class_of: Callable[[str], str] = str
) -> Annotation:
    """Read one VOC file; records an unusable file as rejected and returns no boxes.

    Args:
        files: the dataset.
        path: the annotation file; None gives no boxes.
        class_of: turns a box's label into the name of its class, or raises `RejectedFileError`.
    """
    if path is None:
        return Annotation()
    try:
        found = parse_annotation(files.read_text(path))
        boxes = tuple(replace(box, label=class_of(box.label)) for box in found.boxes)
        return replace(found, boxes=boxes)
    except RejectedFileError as error:
        files.reject(path, str(error))
        return Annotation()


def parse_annotation(text: str) -> Annotation:
    """Parse VOC XML, forbidding entities, DTDs and external references.

    No path inside the XML is ever opened, because the annotation's file name identifies the image. A
    `<filename>` that points outside its folder is rejected all the same.

    Raises:
        RejectedFileError: the XML is forbidden or broken, or a box lacks numbers.
    """
    try:
        root = fromstring(text, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        raise RejectedFileError(f"forbidden XML: {type(error).__name__}") from error
    except (ParseError, ValueError) as error:
        raise RejectedFileError(f"broken XML: {printable(str(error))}") from error
    check_filename(root.findtext("filename") or "")
    boxes = tuple(parse_object(item) for item in root.iter("object"))
    sides = [(root.findtext(f"size/{name}") or "").strip() for name in ("width", "height")]
    if not all(side.isdecimal() and len(side) < 10 and int(side) > 0 for side in sides):
        return Annotation(boxes)
    width, height = (int(side) for side in sides)
    check_boxes(boxes, width, height)
    return Annotation(boxes, (height, width))


def check_boxes(boxes: Sequence[Box], width: int, height: int) -> None:
    """Raise `RejectedFileError` for a box beyond an image of this size."""
    for box in boxes:
        if min(box.xmin, box.ymin) < 0 or box.xmax > width or box.ymax > height:
            raise RejectedFileError(f"{described(box)} leaves its image of {width}x{height} pixels")


def described(box: Box) -> str:
    """A box as text for a message."""
    return f"box {printable(box.label)!r} ({box.xmin}, {box.ymin}, {box.xmax}, {box.ymax})"


def check_filename(name: str) -> None:
    """Raise `RejectedFileError` for a `<filename>` that is absolute or points outside its folder."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or name.strip()[1:2] == ":":
        raise RejectedFileError(f"annotation names a file outside its folder: {printable(name.strip())}")


def parse_object(item: Element) -> Box:
    """Parse one `<object>` into a box."""
    corners = []
    for name in ("xmin", "ymin", "xmax", "ymax"):
        text = item.findtext(f"bndbox/{name}")
        try:
            corners.append(round(float(text or "")))
        except (ValueError, OverflowError) as error:
            raise RejectedFileError(f"box without a number in <{name}>: {text!r}") from error
    box = Box((item.findtext("name") or "").strip(), *corners)
    if box.xmin > box.xmax or box.ymin > box.ymax:
        raise RejectedFileError(f"{described(box)} has its corners swapped")
    return box
