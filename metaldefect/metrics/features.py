"""Features of image files, computed chunk by chunk so that memory does not grow with the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from metaldefect.backbones import LITE0_FEATURES, pooled_features
from metaldefect.hardware import workers
from metaldefect.images import Channels, read_image

# Images in memory at a time: 16 MiB at 256 pixels, and enough to make the cost of loading the network small.
CHUNK = 256


def features_of_files(
    paths: Sequence[Path], size: int, description: str = "features", channels: Channels = 1
) -> NDArray[np.float32]:
    """`pooled_features` of image files, `float32 [N, 1280]` in the order of `paths`.

    Args:
        paths: image files.
        size: side in pixels to which each image is resized first: the size the pipeline works at.
        description: label of the progress bar.
        channels: 1 reads images as grey, 3 in colour.

    Raises:
        UnreadableImageError: a file cannot be decoded; the message names it.
    """
    found = np.empty((len(paths), LITE0_FEATURES), np.float32)
    with ThreadPoolExecutor(workers()) as pool, tqdm(total=len(paths), desc=description, unit="image") as bar:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            images = np.stack(list(pool.map(lambda path: read_image(path, channels, size=size), chunk)))
            found[start : start + len(images)] = pooled_features(images)
            bar.update(len(images))
    return found
