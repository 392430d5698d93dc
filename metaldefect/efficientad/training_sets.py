"""From a provider and a folder of natural images to what a detector is trained on."""

from __future__ import annotations

from pathlib import Path

from metaldefect.efficientad.training_data import TrainingImages, centre_crop
from metaldefect.images import stack_resized
from metaldefect.ingest.natural import load_natural_images, natural_source
from metaldefect.inspection.provider import DatasetProvider


def training_images(
    provider: DatasetProvider, size: int, penalty: bool, natural: Path | None, penalty_images: int
) -> TrainingImages:
    """Normal images and penalty images, all squares of side `size`; no other split is looked at."""
    normal = stack_resized((item.image for item in provider.train()), size)
    if not penalty:
        return TrainingImages(normal, None, "none")
    # The paper's penalty images: resized to twice the size, then the middle of them.
    crops = centre_crop(load_natural_images(natural, 2 * size, penalty_images), size, size)
    source = f"{len(crops)} crops of {natural_source(natural)}"
    return TrainingImages(normal, crops, source)
