"""`metaldefect insert`: put defects into the user's own normal images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaldefect.artifacts import atomic_file, sha256_file
from metaldefect.commands.canvases import (
    Canvas,
    check_names,
    find_canvases,
    sorted_like_masks,
    with_text_names,
)
from metaldefect.commands.insert_settings import InsertSettings
from metaldefect.commands.manifest import (
    Output,
    OutputImage,
    check_made_again,
    check_version,
    folder_digest,
    keep_record,
    read_records,
    write_manifest,
)
from metaldefect.commands.models import require_models
from metaldefect.errors import UserError
from metaldefect.hardware import one_thread_per_call
from metaldefect.image_files import IMAGE_SUFFIXES, Levels
from metaldefect.images import UnreadableImageError, write_png
from metaldefect.ingest.levels import levels_of_model
from metaldefect.ingest.parallel import map_threads
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.synthesis.config import Format, TransplantConfig
from metaldefect.synthesis.formats.layouts import LAYOUTS
from metaldefect.synthesis.formats.records import ImageRecord, record_defect
from metaldefect.synthesis.inpainting import Mask
from metaldefect.synthesis.methods import (
    Inserted,
    MaskGITPainter,
    ProceduralPainter,
    Proposer,
    Transplanter,
    insert_defects,
)
from metaldefect.synthesis.photographs import Photograph, read_photograph, write_photograph
from metaldefect.synthesis.placement import Spot, bounding_box
from metaldefect.synthesis.procedural_insertion import painter_of
from metaldefect.synthesis.real_defects import (
    DefectLibrary,
    find_masked_images,
    read_mask,
    unmasked_photographs,
)
from metaldefect.synthesis.roles import Roles, assign_roles, copy_normals

WITHOUT_MODELS = (
    "Two methods need no model: --method transplant moves real masked defects (--defects FOLDER), "
    "--method procedural paints"
)


class Summary(NamedTuple):
    """What a command wrote.

    Attributes:
        images: number of images.
        defects: number of defects in them.
        left_out: number of defects that were left out, by reason.
        unreadable: the reason for each file that cannot be read.
        unmasked: number of photographs of real defects that have no mask and gave nothing.
    """

    images: int
    defects: int
    left_out: dict[str, int]
    unreadable: list[str]
    unmasked: int = 0


def make_proposer(settings: InsertSettings) -> tuple[Proposer, dict[str, str]]:
    """The method, and hashes of the models, real defects and masks that shape its results.

    Raises:
        UserError: models or real defects are missing, or the method does not know a class.
    """
    libraries = {}
    inputs = {}
    if settings.defects is not None and settings.method != "procedural":
        for label in settings.label:
            files = find_masked_images(settings.defects, label, settings.defect_masks, settings.adapter)
            libraries[label] = DefectLibrary(files, Levels.of_setting(settings.levels))
        inputs["defects"] = " ".join(library.digest() for library in libraries.values())
    for places in (settings.mask, settings.masks):
        if places is not None and places.exists():
            inputs["masks"] = folder_digest(places)
    if settings.method == "transplant":
        return Transplanter(libraries, TransplantConfig.of(settings)), inputs
    if settings.method == "procedural":
        for label in settings.label:
            painter_of(label)
        return ProceduralPainter(), inputs
    painter = require_models(settings.tokenizer, settings.maskgit, WITHOUT_MODELS)
    for label in settings.label:
        painter.label(label)
    inputs |= {"tokenizer": folder_digest(settings.tokenizer), "maskgit": folder_digest(settings.maskgit)}
    masks = {label: library.masks() for label, library in libraries.items()}
    return MaskGITPainter(painter, SamplingConfig.of(settings), masks), inputs


def stated_levels(settings: InsertSettings) -> Levels | None:
    """How canvases with more than 8 bits are read, as far as the settings or the models that draw say."""
    stated = Levels.of_setting(settings.levels)
    return levels_of_model(settings.tokenizer) if stated is None and settings.method == "drawn" else stated


def insert(settings: InsertSettings) -> Summary:
    """Insert defects into images, write them in the format asked for, with a manifest.

    A killed run goes on where it was; a finished one does nothing. As many images at a time as
    `metaldefect.hardware.workers` says; their number changes no result.

    Raises:
        UserError: see `find_canvases`, `with_text_names`, `make_proposer`, `find_spot` and `Output`.
    """
    settings = settings.absolute()
    canvases, misnamed = with_text_names(find_canvases(settings.images, stated_levels(settings)))
    proposer, inputs = make_proposer(settings)
    if (depth := canvases[0].depth) is not None:
        inputs["levels"] = f"{depth.low:g} to {depth.high:g}"
    output = Output(settings.output, settings, inputs)
    roles = assign_roles({canvas.path: canvas.name for canvas in canvases}, settings.format, settings.seed)
    chosen = [canvas for canvas in canvases if roles.gets_defects(canvas.path)]
    if settings.format == "mvtec":
        chosen = sorted_like_masks(chosen)
    keys = {f"{label}/{canvas.name}": (canvas, label) for canvas in chosen for label in settings.label}
    check_names(keys.values(), settings.format)
    output.check_canvases({key: canvas.path for key, (canvas, _) in keys.items()})
    todo = [job for key, job in keys.items() if key not in output]
    unreadable = [*misnamed, *roles.unreadable.values()]

    def insert_into(job: tuple[Canvas, str]) -> str | None:
        """Insert and write; return why the image cannot be read."""
        try:
            keep_record(output.folder, write_one(*job, settings, proposer, output, roles))
        except UnreadableImageError as error:
            return str(error)
        return None

    with one_thread_per_call():
        unreadable += filter(None, map_threads(insert_into, todo, "insert"))
    normals = [(canvas.path, canvas.stem) for canvas in canvases]
    unreadable += copy_normals(settings.output, settings.format, normals, roles)
    return finish(settings, list(dict.fromkeys(unreadable)))


def write_one(
    canvas: Canvas, label: str, settings: InsertSettings, proposer: Proposer, output: Output, roles: Roles
) -> OutputImage:
    """Insert the defects of one image and write it with its mask, if any of them can be seen."""
    photograph = read_photograph(canvas.path, canvas.depth)
    after, found = make_one(canvas, photograph, label, settings, proposer)
    layout = LAYOUTS[settings.format]
    image = layout.image(label, canvas.stem, after.suffix)
    mask = layout.mask(label, canvas.stem)
    seen = [item.mask for item in found if item.mask is not None]
    common = {
        "label": label,
        "canvas": str(canvas.path),
        "canvas_sha256": sha256_file(canvas.path),
        "black": photograph.black,
        "white": photograph.white,
    }
    record = None
    if seen:
        write_photograph(output.folder / image, after)
        with atomic_file(output.folder / mask) as temporary:
            write_png(temporary, np.logical_or.reduce(seen).astype(np.uint8) * 255)
        record = ImageRecord(
            image=image, mask=mask, width=after.shape[1], height=after.shape[0],
            channels=after.channels, split=roles.split(canvas.path),
            defects=tuple(record_defect(label, one) for one in seen),
        )  # fmt: skip
        common |= {"image": image, "mask": mask, "image_sha256": sha256_file(output.folder / image)}
    rows = tuple(
        output.row(number=number, **common, **describe(label, item)) for number, item in enumerate(found)
    )
    return OutputImage(key=f"{label}/{canvas.name}", rows=rows, record=record)


def make_one(
    canvas: Canvas, photograph: Photograph, label: str, settings: InsertSettings, proposer: Proposer
) -> tuple[Photograph, list[Inserted]]:
    """Insert the defects of one image; depends on the settings, the image and its name alone."""
    spot = find_spot(canvas, photograph.shape, settings)
    key = (settings.seed, "insert", settings.method, canvas.name)
    return insert_defects(
        photograph, proposer, label, settings.per_image, key, spot, settings.feather, settings.attempts
    )


def describe(label: str, item: Inserted) -> dict[str, Any]:
    """The columns of one defect."""
    found: dict[str, Any] = {
        "visible": item.mask is not None,
        "note": item.note,
        "source": item.source,
        "contrast": item.contrast,
        "details": json.dumps(item.details, sort_keys=True),
    }
    if item.mask is not None:
        record = record_defect(label, item.mask)
        found |= dict(zip(("x", "y", "width", "height"), record.box, strict=True)) | {"area": record.area}
    return found


def find_spot(canvas: Canvas, shape: tuple[int, int], settings: InsertSettings) -> Spot:
    """Where the user wants the defect in one image.

    Raises:
        UserError: the image has no mask in `masks`, a mask is empty or of another size, or `at` lies outside.
    """
    taken = np.zeros(shape, bool)
    if settings.at is not None:
        x, y = settings.at
        if y >= shape[0] or x >= shape[1]:
            raise UserError(f"--at {x},{y} lies outside {canvas.path} ({shape[1]} x {shape[0]} pixels)")
        return Spot(taken, centre=(y, x), size=settings.size)
    path = settings.mask
    if settings.masks is not None:
        path = find_mask(settings.masks, canvas.name)
        if path is None:
            expected = Path(canvas.name).with_suffix(".png").as_posix()
            raise UserError(f"{settings.masks} holds no mask for {canvas.path}: name it {expected}")
    if path is None:
        return Spot(taken, size=settings.size)
    mask = checked_mask(path, shape)
    if settings.per_image == 1:
        return Spot(taken, mask=mask)
    return Spot(~mask, size=settings.size, room=bounding_box(mask))


def find_mask(folder: Path, image: str) -> Path | None:
    """The mask of an image at the same place in another folder: `<stem>.*` or `<stem>_mask.*`.

    Args:
        folder: folder of the masks.
        image: path of the image inside the folder of images.
    """
    place = folder / Path(image).with_suffix("")
    for ending in ("", "_mask"):
        for suffix in sorted(IMAGE_SUFFIXES):
            for spelling in (suffix, suffix.upper()):
                path = place.with_name(f"{place.name}{ending}{spelling}")
                if path.is_file():
                    return path
    return None


def checked_mask(path: Path, shape: tuple[int, int]) -> Mask:
    """Read the user's mask; raises `UserError` if it marks nothing or everything."""
    mask = read_mask(path, shape)
    if not mask.any() or mask.all():
        marked = "everything" if mask.any() else "nothing"
        raise UserError(f"{path} marks {marked}: mark where the defect goes")
    return mask


def finish(settings: InsertSettings, unreadable: Sequence[str]) -> Summary:
    """Write annotations and manifest from the records of all finished images."""
    images = list(read_records(settings.output))
    write_annotations(settings.output, settings.format, images)
    rows = [row for image in images for row in image.rows]
    kept = [image.record for image in images if image.record is not None]
    left_out = Counter(row["note"] for row in rows if row["note"])
    defects = sum(len(one.defects) for one in kept)
    return Summary(len(kept), defects, dict(left_out), list(unreadable), count_unmasked(settings))


def count_unmasked(settings: InsertSettings) -> int:
    """Number of photographs of real defects that have no mask in `defect_masks`."""
    if settings.defects is None or settings.defect_masks is None or settings.method == "procedural":
        return 0
    found = (unmasked_photographs(settings.defects, label, settings.defect_masks) for label in settings.label)
    return len(set(chain.from_iterable(found)))


def write_annotations(folder: Path, format_name: Format, images: Sequence[OutputImage]) -> None:
    """Write the manifest, and what the format needs beside images and masks."""
    write_manifest(folder, [row for image in images for row in image.rows])
    layout = LAYOUTS[format_name]
    if layout.finish is not None:
        layout.finish(folder, [image.record for image in images if image.record is not None])


def remake(row: Mapping[str, Any]) -> Photograph:
    """Make the image of a manifest's row again, bit for bit, from its canvas, settings and models.

    Images that were added to the canvas's folder since, or are gone from it, change nothing.

    Args:
        row: a row of `manifest.parquet` or `manifest.csv`.

    Raises:
        UserError: another version of this package made it; the canvas, the models, the real defects or the
            masks are gone or have changed since; or other pixels came out, as on another machine.
    """
    check_version(row)
    settings = InsertSettings(**json.loads(row["parameters"]))
    path = Path(row["canvas"])
    if not path.is_file():
        raise UserError(f"{path} does not exist: {row['image']} was made from it")
    if sha256_file(path) != row["canvas_sha256"]:
        raise UserError(f"{path} has changed since {row['image']} was made from it")
    name = path.name if path == settings.images else path.relative_to(settings.images).as_posix()
    # Not the bit depth of today's folder: one brighter image would change all results
    canvas = Canvas(path, name, path.stem, Levels(float(row["black"]), float(row["white"]), clip=True))
    proposer, inputs = make_proposer(settings)
    for name, digest in inputs.items():
        if row[f"{name}_sha256"] != digest:
            raise UserError(f"the {name} changed since {row['image']} was made")
    with one_thread_per_call():
        made, _ = make_one(canvas, read_photograph(path, canvas.depth), row["label"], settings, proposer)
    check_made_again(row, lambda file: write_photograph(file, made))
    return made
