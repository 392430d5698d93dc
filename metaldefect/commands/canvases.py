"""The normal images that get defects, and what their copies are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from metaldefect.errors import UserError, printable
from metaldefect.image_files import IMAGE_SUFFIXES, Levels, is_hidden_name
from metaldefect.ingest.levels import find_levels
from metaldefect.ingest.samples import unique_names
from metaldefect.synthesis.config import Format
from metaldefect.synthesis.formats.layouts import LAYOUTS


class Canvas(NamedTuple):
    """A normal image.

    `name` is its path inside the folder of images, `stem` its unique file name, `depth` the levels of all
    canvases with more than 8 bits.
    """

    path: Path
    name: str
    stem: str
    depth: Levels | None


def find_canvases(images: Path, levels: Levels | None = None) -> list[Canvas]:
    """The normal images, sorted by name.

    Args:
        images: a folder, or one image.
        levels: of images with more than 8 bits; None: those of their bit depth (see `find_levels`).

    Raises:
        UserError: there are none.
    """
    if images.is_file():
        (stem,) = unique_names([images.stem], [images.name])
        return [Canvas(images, images.name, stem, levels or find_levels([images]))]
    paths = sorted(
        path
        for path in images.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(is_hidden_name(part) for part in path.relative_to(images).parts)
    )
    if not paths:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{images} holds no image ({known}): name the folder of normal images")
    names = [path.relative_to(images) for path in paths]
    plain = ["_".join(name.with_suffix("").parts) for name in names]
    stems = unique_names(plain, [name.as_posix() for name in names])
    depth = levels or find_levels(paths)
    return [Canvas(p, n.as_posix(), s, depth) for p, n, s in zip(paths, names, stems, strict=True)]


def with_text_names(canvases: Sequence[Canvas]) -> tuple[list[Canvas], list[str]]:
    """The canvases whose names are UTF-8, as manifests need them, and a reason for each of the others.

    Raises:
        UserError: no name is.
    """
    reasons = {
        canvas: f"{printable(str(canvas.path))}: its name is not UTF-8: rename it"
        for canvas in canvases
        if not is_text(canvas.name)
    }
    if len(reasons) == len(canvases):
        raise UserError(next(iter(reasons.values())))
    return [canvas for canvas in canvases if canvas not in reasons], list(reasons.values())


def is_text(name: str) -> bool:
    """Whether a file's name is valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def sorted_like_masks(canvases: Sequence[Canvas]) -> list[Canvas]:
    """Canvases with names that sort like those of their masks: none is the beginning of another.

    anomalib pairs sorted images with sorted masks. `1.png` comes before `10.png`, but `1_mask.png` after
    `10_mask.png`; so `1` gets a hash of its path.
    """
    ordered = sorted(canvas.stem for canvas in canvases)
    beginnings = {stem for stem, following in pairwise(ordered) if following.startswith(stem)}
    renamed = []
    for canvas in canvases:
        if canvas.stem in beginnings:
            digest = hashlib.sha256(canvas.name.encode(errors="surrogateescape")).hexdigest()
            canvas = canvas._replace(stem=f"{canvas.stem}-{digest[:8]}")
        renamed.append(canvas)
    return renamed


def check_names(jobs: Iterable[tuple[Canvas, str]], format_name: Format) -> None:
    """Raise `UserError` if two images would be written to one file, ignoring case.

    In a flat format these are class `a` in `b_c.png` and class `a_b` in `c.png`.
    """
    taken: dict[str, tuple[Canvas, str]] = {}
    for canvas, label in jobs:
        image = LAYOUTS[format_name].image(label, canvas.stem, "")
        other = taken.setdefault(image.lower(), (canvas, label))
        if other != (canvas, label):
            raise UserError(
                f"{label!r} in {canvas.path} and {other[1]!r} in {other[0].path} would both be called"
                f" {image}: rename one of the images or classes"
            )
