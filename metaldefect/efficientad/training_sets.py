"""Make a detector's training images from a provider and a folder of natural images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from metaldefect.efficientad.training_data import TrainingImages
from metaldefect.images import U8, resize
from metaldefect.ingest.natural import natural_photographs, natural_source
from metaldefect.inspection.provider import DatasetProvider, InspectionImages
from metaldefect.training.data import LazyImages


def training_images(
    provider: DatasetProvider, size: int, penalty: bool, natural: Path | None, penalty_images: int
) -> TrainingImages:
    """Normal images and penalty images, all squares of side `size`; uses only the training split.

    Images are read when a step needs them.
    """
    normal = resized_images(provider.train(), size)
    if not penalty:
        return TrainingImages(normal, None, "none")
    # The paper's penalty images: resize to twice the size, then crop the middle.
    photographs = natural_photographs(natural, 2 * size, penalty_images)
    crops = LazyImages([partial(middle, one.read, size) for one in photographs], (size, size, 3))
    return TrainingImages(normal, crops, f"{len(crops)} crops of {natural_source(natural)}")


def resized_images(images: InspectionImages, size: int) -> LazyImages:
    """A provider's images as squares, read or drawn on access."""

    def read(index: int) -> U8:
        return resize(images[index].image, size)

    return LazyImages([partial(read, index) for index in range(len(images))], (size, size))


def middle(read: Callable[[], U8], size: int) -> U8:
    """The middle `[size, size, ...]` of an image that is at least as large."""
    image = read()
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]
