"""Tell whether an image looks like anything that the models were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaldefect.backbones import pooled_features
from metaldefect.images import U8, as_channels, read_grey, stack_resized

REFERENCES = 48  # images of the run to compare with
SIDE = 128
# An image is unlike the training images if it lies this many times farther from them than the loneliest of
# them lies from the others
FAR = 1.25


@dataclass(frozen=True)
class Familiarity:
    """Features of training images, and the distance from which an image counts as unlike them."""

    features: NDArray[np.float32]  # [N, D]
    limit: float

    @classmethod
    def of(cls, images: U8) -> Familiarity | None:
        """Learn from grey images `uint8 [N, H, W]`; None if there are fewer than three."""
        if len(images) < 3:
            return None
        features = pooled_features(images)
        distances = np.linalg.norm(features[:, None] - features[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        return cls(features, float(FAR * distances.min(axis=1).max()))

    def is_unlike(self, image: U8) -> bool:
        """Whether an image `uint8 [H, W]` or `[H, W, 3]` is unlike all training images, both in grey."""
        feature = pooled_features(stack_resized([as_channels(image, 1)], SIDE))
        return float(np.linalg.norm(self.features - feature, axis=1).min()) > self.limit


def run_familiarity(root: Path) -> Familiarity | None:
    """Familiarity with a run's good training images and its images of defects, evenly spread."""
    good = sorted((root / "data/merged/inspection/train/good").glob("*.png"))
    defective = sorted((root / "data/merged/images").rglob("*.png"))
    chosen = [
        path
        for paths in (good, defective)
        for path in paths[:: max(1, len(paths) // (REFERENCES // 2))][: REFERENCES // 2]
    ]
    return Familiarity.of(stack_resized([read_grey(path) for path in chosen], SIDE)) if chosen else None
