"""Make a detector's training images from a provider and a folder of natural images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from metaldefect.efficientad.training_data import TrainingImages
from metaldefect.images import U8, Channels, ImageSize, height_and_width, middle, resize
from metaldefect.ingest.natural import natural_photographs, natural_source
from metaldefect.inspection.provider import DatasetProvider, InspectionImages
from metaldefect.training.data import LazyImages


def training_images(
    provider: DatasetProvider, size: ImageSize, penalty: bool, natural: Path | None, penalty_images: int
) -> TrainingImages:
    """Normal images and penalty images, all of one size; uses only the training split.

    Images are read when a step needs them.
    """
    normal = resized_images(provider.train(), size, provider.channels)
    if not penalty:
        return TrainingImages(normal, None, "none")
    # The paper's penalty images: resize to twice the size, then crop the middle.
    shape = height_and_width(size)
    photographs = natural_photographs(natural, 2 * max(shape), penalty_images)
    crops = LazyImages([partial(middle_of, one.read, shape) for one in photographs], (*shape, 3))
    return TrainingImages(normal, crops, f"{len(crops)} crops of {natural_source(natural)}")


def resized_images(images: InspectionImages, size: ImageSize, channels: Channels = 1) -> LazyImages:
    """A provider's images at one size, read or drawn on access."""

    def read(index: int) -> U8:
        return resize(images[index].image, size)

    shape = height_and_width(size)
    return LazyImages(
        [partial(read, index) for index in range(len(images))], shape if channels == 1 else (*shape, channels)
    )


def middle_of(read: Callable[[], U8], shape: tuple[int, int]) -> U8:
    """The middle of an image that `read` returns."""
    return middle(read(), shape)
