"""Natural photographs: what the distillation and the detector's penalty see besides metal.

A folder of one's own (ImageNet, say) is best. Without one, the photographs that lie inside the installed
packages scikit-image and scikit-learn serve: no download, the same pictures on every machine.
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
from metaldefect.images import U8, read_rgb, resize

SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})

# Photographs only: the packages' drawings, text pages and test charts look like nothing in nature.
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

# Crops a photograph: their side as a share of the photograph's short side, and how many along each axis.
CROPS = ((1.0, 1), (0.6, 2), (0.42, 3))
CROPS_EACH = sum(positions**2 for _, positions in CROPS)


@dataclass(frozen=True)
class Natural:
    """A natural image that is read when it is asked for.

    Attributes:
        photograph: the file that it is part of: crops of one photograph have the same.
        read: reads it, `uint8 [size, size, 3]`.
    """

    photograph: str
    read: Callable[[], U8]


def natural_photographs(folder: Path | None, size: int, limit: int | None) -> list[Natural]:
    """Square colour images of side `size`, not read yet.

    Args:
        folder: searched for JPEG and PNG files at any depth, in sorted order, one centre crop each;
            None takes the packaged photographs, fourteen crops each.
        size: side in pixels.
        limit: how many at most; evenly spread over what there is. None takes all.

    Raises:
        UserError: `folder` does not exist, or no packaged photograph is installed; or `folder` holds no
            image, or `limit` is below 1.
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
    return [found[index] for index in spread(len(found), limit)]


def natural_source(folder: Path | None) -> str:
    """Name what `natural_photographs` reads: the folder, or the packages with their versions."""
    if folder is not None:
        return f"{len(image_files(folder))} images in the folder {folder.name}"
    count = len(packaged_photographs())
    return (
        f"{count} photographs inside scikit-image {version('scikit-image')}"
        f" and scikit-learn {version('scikit-learn')}"
    )


def image_files(folder: Path) -> list[Path]:
    """The JPEG and PNG files below `folder`, sorted by their path."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of natural images")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"{folder} holds no {', '.join(sorted(SUFFIXES))} file")
    return found


def packaged_photographs() -> list[Path]:
    """Paths of the photographs inside the installed packages; those that a release left out are absent."""
    paths = [Path(str(files(package) / name)) for package, names in PACKAGED.items() for name in names]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise UserError("no photograph inside scikit-image or scikit-learn: give a folder of natural images")
    return present


@lru_cache(maxsize=2)
def last_read(path: Path) -> U8:
    """The photograph; crops are mostly asked for in order, so the last ones stay."""
    return read_rgb(path)


def read_crop(path: Path, number: int, size: int) -> U8:
    """One of the fourteen crops of a photograph in a file."""
    return crop_of(last_read(path), number, size)


def crop_of(photograph: U8, number: int, size: int) -> U8:
    """One of fourteen square crops of `uint8 [H, W, 3]`, at one of three magnifications."""
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
    """The centre of a photograph."""
    return centre_crop(read_rgb(path), size)


def centre_crop(image: U8, size: int) -> U8:
    """The largest centred square of `uint8 [H, W, 3]`, resized to `size`."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], size)


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` indices out of `count`, evenly spread and increasing."""
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]
