"""Features of files are those of their images, with a few images in memory at a time."""

from pathlib import Path

import numpy as np
import pytest

from metaldefect.backbones import pooled_features
from metaldefect.images import resize, write_png
from metaldefect.metrics import features
from metaldefect.metrics.features import features_of_files


def test_features_of_files_are_those_of_their_images_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 48, 48)).astype(np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, images, strict=True):
        write_png(path, image)
    seen = []

    def counted(chunk: np.ndarray) -> np.ndarray:
        seen.append(len(chunk))
        return pooled_features(chunk)

    monkeypatch.setattr(features, "CHUNK", 2)
    monkeypatch.setattr(features, "pooled_features", counted)
    expected = pooled_features(np.stack([resize(image, 32) for image in images]))
    np.testing.assert_allclose(features_of_files(paths, 32), expected, rtol=1e-4, atol=1e-5)
    assert seen == [2, 2, 1]
