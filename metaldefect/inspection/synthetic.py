"""A provider that draws procedural metal on access."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from metaldefect.errors import UserError
from metaldefect.images import U8, Channels, ImageSize, as_channels, height_and_width, middle
from metaldefect.inspection.layout import GOOD
from metaldefect.inspection.provider import DatasetProvider, InspectionImage, InspectionImages
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image, keyed_generator
from metaldefect.procedural.textures import Finish


@dataclass(frozen=True)
class SyntheticCounts:
    """Number of images per split; `test_anomalies` counts images per kind of anomaly."""

    train: int
    validation: int
    test_normal: int
    test_anomalies: int

    def __post_init__(self) -> None:
        if self.train < 1:
            raise UserError(f"{self.train} images to train on: at least 1 is needed")
        if self.validation < 1:
            raise UserError(f"{self.validation} normal images to validate on: at least 1 is needed")


class SyntheticDatasetProvider(DatasetProvider):
    """Procedural metal with scratches, contamination and misplaced objects.

    Image k depends only on `seed`, split, label and k, so larger counts leave earlier images unchanged.
    Every image has its own random key, and so forms its own scene.

    Args:
        seed: non-negative.
        counts: sizes of the splits.
        size: of the images, px, at least 16 per side; if not square, the middle of a square.
        finish: the metal; None mixes all finishes, as on a line that makes several products.
        channels: 1, or 3 equal ones.
    """

    def __init__(
        self,
        seed: int,
        counts: SyntheticCounts,
        size: ImageSize,
        finish: Finish | None = None,
        channels: Channels = 1,
    ) -> None:
        self.seed, self.counts, self.finish, self.channels = seed, counts, finish, channels
        self.shape = height_and_width(size)

    def train(self) -> InspectionImages:
        return self._normal("train", self.counts.train)

    def validation(self) -> InspectionImages:
        return self._normal("validation", self.counts.validation)

    def canvases(self) -> InspectionImages:
        return self._normal("canvas", self.counts.validation)

    def test(self) -> InspectionImages:
        drawn = self._normal("test", self.counts.test_normal)
        for kind in ANOMALIES:
            load = [partial(self._draw, "test", kind, k) for k in range(self.counts.test_anomalies)]
            drawn += InspectionImages(load, [kind] * len(load))
        return drawn

    def _normal(self, split: str, count: int) -> InspectionImages:
        return InspectionImages([partial(self._draw, split, GOOD, k) for k in range(count)], [GOOD] * count)

    def _draw(self, split: str, label: str, index: int) -> InspectionImage:
        rng = keyed_generator(self.seed, "synthetic", split, label, index)
        name = f"{label}/{index:04d}"
        scene = f"{split}/{name}"
        side = max(self.shape)
        if label == GOOD:
            normal = generate_normal_image(rng, side, self.finish)
            return InspectionImage(self._seen(normal), None, label, name, scene)
        image, mask = generate_anomalous_image(label, rng, side, self.finish)
        return InspectionImage(self._seen(image), middle(mask, self.shape), label, name, scene)

    def _seen(self, image: U8) -> U8:
        return as_channels(middle(image, self.shape), self.channels)
