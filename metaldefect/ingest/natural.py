"""Natural photographs: what the distillation and the detector's penalty see besides metal.

A folder of one's own (ImageNet, say) is best. Without one, the photographs that lie inside the installed
packages scikit-image and scikit-learn serve: no download, the same pictures on every machine.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
from tqdm import tqdm

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


def load_natural_images(folder: Path | None, size: int, limit: int | None) -> U8:
    """Load square colour images, `uint8 [N, size, size, 3]`.

    Args:
        folder: searched for JPEG and PNG files at any depth, in sorted order, one centre crop each;
            None takes the packaged photographs, fourteen crops each.
        size: side in pixels.
        limit: how many at most; evenly spread over what there is. None takes all.

    Raises:
        UserError: `folder` does not exist, or no packaged photograph is installed; or `folder` holds no
            image, or `limit` is below 1.
        UnreadableImageError: a file cannot be decoded.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit of natural images is {limit}: at least 1 is needed")
    if folder is None:
        crops = [crop for path in packaged_photographs() for crop in crops_of(read_rgb(path), size)]
        return np.stack([crops[index] for index in spread(len(crops), limit)])
    paths = image_files(folder)
    chosen = [paths[index] for index in spread(len(paths), limit)]
    progress = tqdm(
        chosen, desc=f"natural images from {folder.name}", unit="image", disable=len(chosen) < 100
    )
    return np.stack([centre_crop(read_rgb(path), size) for path in progress])


def natural_source(folder: Path | None) -> str:
    """Name what `load_natural_images` reads: the folder, or the packages with their versions."""
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


def crops_of(photograph: U8, size: int) -> list[U8]:
    """Square crops of `uint8 [H, W, 3]` at three magnifications, spread over the photograph."""
    height, width = photograph.shape[:2]
    crops = []
    for share, positions in CROPS:
        side = round(share * min(height, width))
        for top in np.linspace(0, height - side, positions).round().astype(int):
            for left in np.linspace(0, width - side, positions).round().astype(int):
                crops.append(resize(photograph[top : top + side, left : left + side], size))
    return crops


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
