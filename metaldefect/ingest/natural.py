"""Natural photographs for the distillation and the detector's penalty, which need more than metal.

A folder of photographs such as ImageNet works best. Without one, the functions use photographs inside the
installed packages scikit-image and scikit-learn: no download, and the same images on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np

from metaldefect.errors import UserError
from metaldefect.image_files import IMAGE_SUFFIXES, is_hidden_name
from metaldefect.images import U8, read_rgb, resize

# Photographs only: the packages' drawings, text pages and test charts do not look natural.
PACKAGED = {
    "skimage.data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}

# Crops per photograph: their side as a share of its short side, and their number along each axis.
CROPS = ((1.0, 1), (0.6, 2), (0.42, 3))
CROPS_EACH = sum(positions**2 for _, positions in CROPS)


@dataclass(frozen=True)
class Natural:
    """A natural image that is read on demand.

    Attributes:
        photograph: its file; crops of one photograph share it.
        read: returns the image, `uint8 [size, size, 3]`.
    """

    photograph: str
    read: Callable[[], U8]


def natural_photographs(folder: Path | None, size: int, limit: int | None) -> list[Natural]:
    """List square colour images of side `size` without reading them.

    Args:
        folder: searched for JPEG and PNG files at any depth, in sorted order, one centre crop each;
            None uses the packaged photographs, fourteen crops each.
        size: side in pixels.
        limit: maximum number of images, evenly spread over those found; None uses all.

    Raises:
        UserError: `folder` is missing or holds no image, no packaged photograph is installed, or `limit` is
            below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit of natural images is {limit}: at least 1 is needed")
    if folder is None:
        found = [
            Natural(path.name, partial(read_crop, path, number, size))
            for path in packaged_photographs()
            for number in range(CROPS_EACH)
        ]
    else:
        found = [
            Natural(str(path.relative_to(folder)), partial(read_centre, path, size))
            for path in image_files(folder)
        ]
    return [found[index] for index in evenly_spaced(len(found), limit)]


def natural_source(folder: Path | None) -> str:
    """Describe the source of `natural_photographs`: the folder, or the packages with their versions."""
    if folder is not None:
        return f"{len(image_files(folder))} images in the folder {folder.name}"
    count = len(packaged_photographs())
    return (
        f"{count} photographs inside scikit-image {version('scikit-image')}"
        f" and scikit-learn {version('scikit-learn')}"
    )


def image_files(folder: Path) -> list[Path]:
    """The JPEG and PNG files below `folder`, sorted by path; `UserError` if there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of natural images")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(is_hidden_name(part) for part in path.relative_to(folder).parts)
    )
    if not found:
        raise UserError(f"{folder} holds no {', '.join(sorted(IMAGE_SUFFIXES))} file")
    return found


def packaged_photographs() -> list[Path]:
    """Paths of the photographs in the installed packages, without those that a release left out."""
    paths = [Path(str(files(package) / name)) for package, names in PACKAGED.items() for name in names]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise UserError("no photograph inside scikit-image or scikit-learn: give a folder of natural images")
    return present


@lru_cache(maxsize=2)
def last_read(path: Path) -> U8:
    """Read a photograph, caching the last two: callers mostly read all crops of one photograph in a row."""
    return read_rgb(path)


def read_crop(path: Path, number: int, size: int) -> U8:
    """Read one of a photograph's fourteen crops, `uint8 [size, size, 3]`."""
    return crop_of(last_read(path), number, size)


def crop_of(photograph: U8, number: int, size: int) -> U8:
    """Cut one of fourteen square crops, in three magnifications, from `uint8 [H, W, 3]`."""
    height, width = photograph.shape[:2]
    places = [(share, row, column, n) for share, n in CROPS for row in range(n) for column in range(n)]
    share, row, column, positions = places[number]
    side = round(share * min(height, width))
    top, left = (
        int(np.linspace(0, length - side, positions).round()[place])
        for length, place in ((height, row), (width, column))
    )
    return resize(photograph[top : top + side, left : left + side], size)


def read_centre(path: Path, size: int) -> U8:
    """Read a photograph's centre crop, `uint8 [size, size, 3]`."""
    return centre_crop(read_rgb(path), size)


def centre_crop(image: U8, size: int) -> U8:
    """Cut the largest centred square from `uint8 [H, W, 3]` and resize it to `size`."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], size)


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """At most `limit` indices below `count`, evenly spread and increasing."""
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]
