"""`metaldefect draw`: draw whole images of defects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from metaldefect.artifacts import atomic_file, sha256_file
from metaldefect.commands.insert import Summary
from metaldefect.commands.insert_settings import DrawSettings
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
from metaldefect.hardware import set_threads
from metaldefect.images import U8, write_png
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.procedural.defects import DEFECT_CLASSES
from metaldefect.procedural.images import generate_defect_image, generate_plate_image, keyed_generator
from metaldefect.procedural.plates import PLATE_CLASSES
from metaldefect.synthesis.formats.layouts import folder_name
from metaldefect.synthesis.formats.records import record_defect
from metaldefect.synthesis.inpainting import Mask
from metaldefect.synthesis.painter import Painter

WITHOUT_MODELS = "--method procedural needs no model"

# Draws image `number` of a class; the mask is None where nobody knows it
Artist = Callable[[str, int], tuple[U8, Mask | None]]


def draw(settings: DrawSettings) -> Summary:
    """Draw images of each class, `images/<label>/<label>_<number>.png`, with a manifest.

    Image k of a class depends on the seed, the class and k alone, so a larger count adds to the same images.
    A killed run goes on where it was.

    Raises:
        UserError: models are missing, a class is unknown, or the output holds something else.
    """
    set_threads()
    settings = settings.absolute()
    artist, inputs = make_artist(settings)
    output = Output(settings.output, settings, inputs)
    every = [(label, number) for label in settings.label for number in range(settings.count)]
    todo = [(label, number) for label, number in every if key_of(label, number) not in output]
    for label, number in tqdm(todo, desc="draw", unit="image"):
        keep_record(output.folder, write_one(label, number, artist, output))
    images = list(read_records(settings.output))
    rows = [row for image in images for row in image.rows]
    write_manifest(settings.output, rows)
    kept = sum(not row["dropped"] for row in rows)
    return Summary(kept, kept, {}, [])


def key_of(label: str, number: int) -> str:
    """Key of an image's record."""
    return f"{label}/{number:06d}"


def make_artist(settings: DrawSettings) -> tuple[Artist, dict[str, str]]:
    """What draws, and hashes of the models it uses; raises `UserError` if a model or a class is missing."""
    if settings.method == "procedural":
        known = (*DEFECT_CLASSES, *PLATE_CLASSES)
        for label in settings.label:
            if label not in known:
                raise UserError(f"no procedural class is called {label!r}: there are {', '.join(known)}")
        return partial(draw_procedural, settings=settings), {}
    painter = require_models(settings.tokenizer, settings.maskgit, WITHOUT_MODELS)
    for label in settings.label:
        painter.label(label)
    inputs = {"tokenizer": folder_digest(settings.tokenizer), "maskgit": folder_digest(settings.maskgit)}
    return partial(draw_with_models, painter=painter, settings=settings), inputs


def draw_procedural(label: str, number: int, settings: DrawSettings) -> tuple[U8, Mask]:
    """Draw a procedural image with its mask."""
    generate = generate_defect_image if label in DEFECT_CLASSES else generate_plate_image
    return generate(label, keyed_generator(settings.seed, "draw", label, number), settings.size)


def draw_with_models(label: str, number: int, painter: Painter, settings: DrawSettings) -> tuple[U8, None]:
    """Draw one image alone: in a batch its rounding would depend on the others."""
    labels = torch.tensor([painter.label(label)])
    (image,) = painter.sample(labels, [number], SamplingConfig.of(settings), settings.seed)
    return image, None


def write_one(label: str, number: int, artist: Artist, output: Output) -> OutputImage:
    """Draw and write one image, and its mask if there is one."""
    picture, mask = artist(label, number)
    stem = f"{folder_name(label)}/{folder_name(label)}_{number:05d}.png"
    image = f"images/{stem}"
    with atomic_file(output.folder / image) as temporary:
        write_png(temporary, picture)
    found: dict[str, Any] = {
        "label": label,
        "number": number,
        "image": image,
        "image_sha256": sha256_file(output.folder / image),
    }
    if mask is not None:
        found["mask"] = f"masks/{stem}"
        with atomic_file(output.folder / found["mask"]) as temporary:
            write_png(temporary, mask.astype(np.uint8) * 255)
        record = record_defect(label, mask)
        found |= dict(zip(("x", "y", "width", "height"), record.box, strict=True)) | {"area": record.area}
    return OutputImage(key=key_of(label, number), rows=(output.row(**found),))


def remake(row: Mapping[str, Any]) -> U8:
    """Draw the image of a manifest's row again, bit for bit.

    Raises:
        UserError: another version of this package drew it, the models have changed since, or other pixels
            came out, as on another machine.
    """
    check_version(row)
    set_threads()  # as `draw` does: sums of another number of threads round otherwise
    settings = DrawSettings(**json.loads(row["parameters"]))
    artist, inputs = make_artist(settings)
    for name, digest in inputs.items():
        if row[f"{name}_sha256"] != digest:
            raise UserError(f"the {name} changed since {row['image']} was made")
    picture, _ = artist(row["label"], int(row["number"]))
    check_made_again(row, lambda file: write_png(file, picture))
    return picture
