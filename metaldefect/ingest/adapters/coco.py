"""COCO JSON, as annotation tools export it: boxes, polygons and run lengths."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from metaldefect.errors import RejectedFileError, UserError, printable
from metaldefect.image_files import MAX_PIXELS, is_hidden_name
from metaldefect.ingest.adapters.csv_table import SPLITS
from metaldefect.ingest.adapters.files import MAX_TEXT_BYTES, DatasetFiles, check_label
from metaldefect.ingest.adapters.records import Box, RawSample, RunLengths
from metaldefect.ingest.adapters.shapes import Size, check_inside, fill_polygon, fill_runs, runs_of
from metaldefect.inspection.layout import GOOD

SECTIONS = ("images", "annotations", "categories")
BEGINNING = 1 << 20  # bytes of a file that is too large, to say that it is one
Identity = int | str


def empty_as_none(value: Any) -> Any:
    """Exporters write `[]` for a shape that was not drawn."""
    return None if value == [] else value


class Category(BaseModel):
    """A class."""

    id: Identity
    name: str


class Image(BaseModel):
    """A listed image."""

    id: Identity
    file_name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class Counts(BaseModel):
    """Run lengths of an image of `size` (height, width)."""

    size: tuple[int, int]
    counts: list[int] | str


class Annotation(BaseModel):
    """One defect."""

    image_id: Identity
    category_id: Identity
    bbox: Annotated[tuple[float, float, float, float] | None, BeforeValidator(empty_as_none)] = None
    segmentation: Annotated[list[list[float]] | Counts | None, BeforeValidator(empty_as_none)] = None


@dataclass
class Content:
    """What a JSON file says, and what it fails to say.

    Attributes:
        images: readable entries.
        names: class by identity.
        annotations: by the identity of their image.
        broken: why an image cannot be used, by identity.
        shared: identities of several classes, so that nobody can say which one an annotation means.
    """

    images: list[Image] = field(default_factory=list)
    names: dict[Identity, str] = field(default_factory=dict)
    annotations: dict[Identity, list[Annotation]] = field(default_factory=lambda: defaultdict(list))
    broken: dict[Identity, str] = field(default_factory=dict)
    shared: set[Identity] = field(default_factory=set)


def fits(root: Path) -> bool:
    """Whether a folder holds COCO JSON, directly or one folder below."""
    return bool(find_tables(root))


def read(files: DatasetFiles) -> Iterator[RawSample]:
    """Read every COCO JSON file in the dataset's folder and one folder below it.

    The class of an image is that of its annotations, `a+b` if it shows several. An image without annotation
    is good only if it lies in a folder `good` or is annotated with a category of that name; else nobody says
    what it shows, and it is left out. `train`, `val` or `test` in the name of the JSON file or its folder is
    the split.
    """
    tables = find_tables(files.root)
    if not tables:
        raise UserError(
            f"{files.root} holds no COCO file: expected a .json file with images, annotations and categories,"
            " there or one folder below"
        )
    listed: set[Path] = set()
    for table in tables:
        yield from read_table(files, table, listed)
    unlisted = [path for path in files.images(files.root, nested=True, others=True) if path not in listed]
    note_left_out(files, tables[0], unlisted, "no COCO file lists")


def find_tables(root: Path) -> list[Path]:
    """COCO JSON files in a folder and one folder below."""
    found = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    return [path for path in found if not is_hidden_name(path.name) and is_coco(path)]


def is_coco(path: Path) -> bool:
    """Whether a file names the sections of a COCO file; of one that is too large to read, its beginning."""
    if not path.is_file():
        return False
    if path.stat().st_size > MAX_TEXT_BYTES:
        with path.open("rb") as stream:
            beginning = stream.read(BEGINNING)
        return any(f'"{section}"'.encode() in beginning for section in SECTIONS)
    content = path.read_bytes()
    return all(f'"{section}"'.encode() in content for section in SECTIONS)


def read_table(files: DatasetFiles, table: Path, listed: set[Path]) -> Iterator[RawSample]:
    """Read one JSON file; `listed` collects the images that it names."""
    content = load(files, table)
    split = split_of(table)
    silent: list[Path] = []
    for image in content.images:
        path = find_image(files, table, image)
        if path is None:
            files.reject(table, f"lists an image that is not there: {printable(image.file_name)}")
            continue
        if path in listed:
            files.reject(path, f"{table.name} lists it a second time")
            continue
        listed.add(path)
        try:
            sample = sample_of(files, path, image, content, split)
        except RejectedFileError as error:
            files.reject(path, f"{table.name}: {error}")
            continue
        if sample is None:
            silent.append(path)
        else:
            yield sample
    note_left_out(files, table, silent, "no annotation says what is shown on")


def note_left_out(files: DatasetFiles, table: Path, paths: list[Path], why: str) -> None:
    """Note how many images are left out, and what to do if they are good."""
    if paths:
        files.note(
            table,
            f"{why} {len(paths)} image(s), such as {files.relative(paths[0])}: left out; if they are good,"
            " list them and put them in a folder good",
        )


def load(files: DatasetFiles, table: Path) -> Content:
    """Read a JSON file; entries that cannot be used are rejected, each by its number."""
    content = Content()
    try:
        sections = json.loads(files.read_text(table))
        for section in SECTIONS:
            if not isinstance(sections, dict) or not isinstance(sections.get(section), list):
                raise RejectedFileError(f"no list {section!r}")
    except (RejectedFileError, ValueError, RecursionError) as error:
        files.reject(table, f"unreadable COCO file: {printable(str(error))}")
        return content
    files_of: dict[Identity, str] = {}
    for section, model in (("categories", Category), ("images", Image)):
        for number, entry in enumerate(sections[section]):
            try:
                item = model.model_validate(entry)
                if isinstance(item, Category):
                    check_label(item.name)
            except (ValidationError, RejectedFileError) as error:
                files.reject(table, f"{section}[{number}]: {first_problem(error)}")
                continue
            if isinstance(item, Category):
                name = item.name.strip()
                if content.names.setdefault(item.id, name) != name:
                    content.shared.add(item.id)
                    files.reject(table, f"{section}[{number}]: a second name for the id {item.id!r}")
            elif isinstance(item, Image):
                if files_of.setdefault(item.id, item.file_name) != item.file_name:
                    content.broken[item.id] = f"two images have the id {item.id!r}"
                content.images.append(item)
    add_annotations(files, table, content, sections["annotations"])
    return content


def add_annotations(files: DatasetFiles, table: Path, content: Content, entries: list[Any]) -> None:
    """Sort the annotations by image; what cannot be used is rejected, and its image marked as broken."""
    known = {image.id for image in content.images}
    for number, entry in enumerate(entries):
        place = f"annotations[{number}]"
        try:
            annotation = Annotation.model_validate(entry)
        except ValidationError as error:
            image = entry.get("image_id") if isinstance(entry, dict) else None
            if isinstance(image, Identity) and image in known:
                content.broken.setdefault(image, f"{place}: {first_problem(error)}")
            else:
                files.reject(table, f"{place}: {first_problem(error)}")
            continue
        if annotation.image_id not in known:
            files.reject(table, f"{place}: no image has the id {annotation.image_id!r}")
        elif annotation.category_id in content.shared:
            reason = f"{place}: two categories have the id {annotation.category_id!r}"
            content.broken.setdefault(annotation.image_id, reason)
        elif annotation.category_id not in content.names:
            reason = f"{place}: no category has the id {annotation.category_id!r}"
            content.broken.setdefault(annotation.image_id, reason)
        else:
            content.annotations[annotation.image_id].append(annotation)


def first_problem(error: ValidationError | RejectedFileError) -> str:
    """The first thing that is wrong with an entry."""
    if isinstance(error, RejectedFileError):
        return str(error)
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'entry'}: {problem['msg']}"


def split_of(table: Path) -> str | None:
    """The split in the name of a JSON file, such as `instances_val2017`, or of its folder."""
    for name in (table.stem, table.parent.name):
        for word in re.split("[^a-z]+", name.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return None


def find_image(files: DatasetFiles, table: Path, image: Image) -> Path | None:
    """The file of a listed image: beside the JSON file, or in a folder that exporters use.

    Those are the dataset's folder, `images`, and folders whose name is part of the JSON file's name.
    """
    bases = [table.parent, files.root, table.parent / "images", files.root / "images"]
    bases += [
        folder
        for parent in (files.root, files.root / "images")
        if parent.is_dir()
        for folder in files.folders(parent)
        if folder.name in table.stem
    ]
    for base in dict.fromkeys(bases):
        try:
            path = files.named(base, image.file_name)
        except RejectedFileError:
            continue
        if path.is_file() and files.accepts(path):
            return path
    return None


def sample_of(
    files: DatasetFiles, path: Path, image: Image, content: Content, split: str | None
) -> RawSample | None:
    """The image with its class, boxes and mask; None if nobody says what it shows.

    Raises:
        RejectedFileError: an annotation is broken, or contradicts a folder or another annotation.
    """
    if image.id in content.broken:
        raise RejectedFileError(content.broken[image.id])
    if image.width * image.height > MAX_PIXELS:
        raise RejectedFileError(f"{image.width}x{image.height} is more than {MAX_PIXELS} pixels")
    found = content.annotations[image.id]
    in_good = any(part.lower() == GOOD for part in path.relative_to(files.root).parent.parts)
    if not found and not in_good:
        return None
    labels = sorted({content.names[item.category_id] for item in found})
    defects = [label for label in labels if label.lower() != GOOD]
    if defects and (in_good or len(defects) < len(labels)):
        raise RejectedFileError(f"it is called good, but annotated as {', '.join(map(printable, defects))}")
    size = (image.height, image.width)
    return RawSample(
        path=path,
        source=files.source,
        source_label="+".join(defects) or GOOD,
        source_split=split,
        mask=mask_of(found, size) if defects else None,
        boxes=tuple(boxes_of(found, content, size)) if defects else (),
        is_normal=not defects,
        size=size,
    )


def mask_of(annotations: Iterable[Annotation], size: Size) -> RunLengths | None:
    """All shapes of an image together; None unless every defect has one.

    Raises:
        RejectedFileError: a shape is broken or leaves the image.
    """
    mask = np.zeros(size, bool)
    for item in annotations:
        if item.segmentation is None:
            return None
        if isinstance(item.segmentation, Counts):
            if item.segmentation.size != size:
                drawn = "x".join(map(str, item.segmentation.size[::-1]))
                raise RejectedFileError(f"run lengths of {drawn} for an image of {size[1]}x{size[0]}")
            mask |= fill_runs(item.segmentation.counts, size)
        else:
            for corners in item.segmentation:
                mask |= fill_polygon(corners, size)
    return runs_of(mask)


def boxes_of(annotations: Iterable[Annotation], content: Content, size: Size) -> Iterator[Box]:
    """Boxes with inclusive corners.

    Raises:
        RejectedFileError: a box has no area, or leaves the image.
    """
    for item in annotations:
        if item.bbox is None:
            continue
        left, top, width, height = item.bbox
        if not (width > 0 and height > 0):
            raise RejectedFileError(f"box of {width:g}x{height:g} pixels")
        check_inside(left, top, left + width, top + height, size)
        xmin, ymin = max(0, round(left)), max(0, round(top))
        right, bottom = min(size[1], round(left + width)), min(size[0], round(top + height))
        label = content.names[item.category_id]
        yield Box(label, xmin, ymin, max(xmin, right - 1), max(ymin, bottom - 1))
