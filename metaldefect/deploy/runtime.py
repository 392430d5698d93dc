"""The runtime: load a bundle, let it prove itself, and score frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from metaldefect.deploy.bundle import (
    METADATA,
    Metadata,
    check_files,
    graph_file,
    parse_metadata,
    precision_files,
    read_description,
    version_of,
)
from metaldefect.deploy.compiled import CompiledGraph, Compute, Scored
from metaldefect.deploy.frames import as_frame
from metaldefect.deploy.golden import check_golden_scores, read_golden_frames
from metaldefect.deploy.signature import check_signature
from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.images import U8, Channels, as_channels, height_and_width, read_image
from metaldefect.tiling import score_tiles

HEAT = "inferno"
WARM_UP_FRAMES = 3
BAND_ROWS = 64  # of an overlay that are drawn at once


@dataclass(frozen=True)
class Detection:
    """The detector's verdict on a frame.

    Attributes:
        score: the anomaly map's maximum.
        is_anomalous: whether the score exceeds the threshold.
        anomaly_map: `float32 [H, W]` at the frame's size; about 0 on normal metal, whose 99.5 % quantile
            is scaled to 0.1.
    """

    score: float
    is_anomalous: bool
    anomaly_map: NDArray[np.float32]


class Detector:
    """A detector from a bundle, safe to use from several threads.

        detector = Detector.load("models/openvino", "int8")
        detection = detector.predict(image)

    Args:
        graph: the compiled graph.
        metadata: the bundle's.
        precision: of the graph.
        version: names the bundle (see `bundle_version`).
    """

    def __init__(self, graph: CompiledGraph, metadata: Metadata, precision: str, version: str) -> None:
        self.graph, self.metadata, self.precision, self.version = graph, metadata, precision, version
        self.image_size = metadata.image_size
        self.threshold = metadata.precisions[precision].threshold

    @classmethod
    def load(
        cls,
        folder: Path | str,
        precision: str = "fp16",
        compute: Compute | None = None,
        *,
        public_key: Path | None = None,
        self_test: bool = True,
    ) -> Detector:
        """Load `fp32`, `fp16` or `int8` from a bundle.

        Args:
            folder: the bundle.
            precision: `fp32` computes in float32, the others in the machine's fastest precision.
            compute: device, hint, threads and cache.
            public_key: PEM file; the bundle must be signed by its owner.
            self_test: score the golden frames and refuse to start if a score differs.

        Raises:
            UserError: the folder holds no bundle, a file is missing or not the one that was exported, the
                signature is wrong, the precision is unknown, or the self-test fails.
        """
        folder = Path(folder)
        # One read: between two, another bundle may take the folder's place
        description = read_description(folder)
        if public_key is not None:
            check_signature(folder, public_key, description)
        metadata = parse_metadata(description, folder / METADATA)
        graph_file(precision)
        if precision not in metadata.precisions:
            raise UserError(f"{folder} has no {precision} graph, only {', '.join(metadata.precisions)}")
        check_files(folder, metadata, precision_files(metadata, precision))
        graph = CompiledGraph(folder / metadata.precisions[precision].graph, precision, compute)
        if self_test:
            frames = read_golden_frames(folder, metadata)
            scores = [score for score, _ in graph.stream(frames)]
            check_golden_scores(folder, metadata, precision, scores)
        return cls(graph, metadata, precision, version_of(description))

    @property
    def tiles(self) -> int | None:
        """Pixels that tiles share, if it was trained on tiles; None: frames are resized."""
        return self.metadata.tiles

    @property
    def channels(self) -> Channels:
        """What it sees: 1 makes colour grey, 3 keeps colours and repeats grey."""
        return self.metadata.input.seen

    @property
    def levels(self) -> Levels | None:
        """How files with more than 8 bits are read."""
        return self.metadata.input.levels

    def read(self, path: Path | str) -> U8:
        """Read an image file as the training images were read.

        Raises:
            UnreadableImageError: the rules of `metaldefect.image_files` refuse it.
        """
        return read_image(path, self.channels, self.levels)

    def warm_up(self) -> None:
        """Score a few grey frames: the first ones take longer, because OpenVINO allocates its memory."""
        grey = np.full(height_and_width(self.image_size), 128, np.uint8)
        for _ in range(WARM_UP_FRAMES):
            self.detect(grey)

    def predict(self, image: NDArray[Any]) -> Detection:
        """Score an image of any size: `uint8 [H, W]` or RGB `[H, W, 3]`, with levels also `uint16`.

        A detector that was trained on tiles scores tiles.

        Raises:
            RejectedFileError: the image is not what the detector takes.
        """
        if self.tiles is not None:
            return self.predict_tiles(image, self.tiles)
        return self.verdict(self.graph.score(as_frame(image, self.metadata.input)), image.shape)

    def predict_batch(self, images: Sequence[NDArray[Any]]) -> list[Detection]:
        """`predict` of each image, several at once; fastest when loaded with the hint THROUGHPUT."""
        return list(self.stream(images))

    def stream(self, images: Iterable[NDArray[Any]]) -> Iterator[Detection]:
        """`predict` of each image in order, several at once, with few of them in memory.

        Raises:
            RejectedFileError: as `predict`, once the image's turn comes.
        """
        if self.tiles is not None:
            yield from map(self.predict, images)  # whose tiles are scored several at once
            return
        shapes: list[tuple[int, ...]] = []

        def frames() -> Iterator[NDArray[Any]]:
            for image in images:
                shapes.append(image.shape)
                yield as_frame(image, self.metadata.input)

        for scored in self.graph.stream(frames()):
            yield self.verdict(scored, shapes.pop(0))

    def predict_tiles(self, image: NDArray[Any], overlap: int) -> Detection:
        """Score an image in tiles of the model's size, for defects that resizing would lose.

        Args:
            image: as for `predict`, of any size.
            overlap: pixels that neighbouring tiles share; at least the size of a defect.

        Returns:
            The largest score of any tile, and the tiles' maps blended into one without seams.

        Raises:
            RejectedFileError: as `predict`.
            UserError: the overlap is more than half a tile.
        """
        frame = as_frame(image, self.metadata.input)
        score, anomaly_map = score_tiles(self.graph.stream, frame, self.image_size, overlap)
        return Detection(score, score > self.threshold, anomaly_map)

    def verdict(self, scored: Scored, shape: tuple[int, ...]) -> Detection:
        """Compare the score with the threshold and bring the map to the image's size."""
        score, anomaly_map = scored
        return Detection(score, score > self.threshold, map_to_size(anomaly_map, (shape[0], shape[1])))

    def detect(self, image: U8) -> Scored:
        """Return score and map, `float32` at the model's size."""
        return self.graph.score(as_frame(image, self.metadata.input))

    def detect_each(self, images: Iterable[U8]) -> Iterator[Scored]:
        """`detect` of each image in order, several at once."""
        return self.graph.stream(as_frame(image, self.metadata.input) for image in images)


def overlay(image: U8, anomaly_map: NDArray[np.float32], threshold: float, strength: float = 0.55) -> U8:
    """Draw the heat map over the image; returns `uint8 [H, W, 3]`.

    Colour and opacity grow from nothing at 0 to full at twice the threshold, so overlays of different
    images are comparable.

    Args:
        image: `uint8 [H, W]` or RGB `[H, W, 3]`.
        anomaly_map: `float32 [H, W]`.
        threshold: the detector's threshold.
        strength: largest opacity, in [0, 1].

    Raises:
        UserError: image and map differ in size.
    """
    if image.shape[:2] != anomaly_map.shape:
        raise UserError(f"image is {image.shape[:2]}, anomaly map {anomaly_map.shape}")
    drawn = np.empty((*anomaly_map.shape, 3), np.uint8)
    # In bands: the colours of a whole image of 25 megapixels would take 2 GB
    for top in range(0, len(drawn), BAND_ROWS):
        band = slice(top, top + BAND_ROWS)
        level = np.clip(anomaly_map[band] / max(2 * threshold, 1e-6), 0, 1)
        colours = matplotlib.colormaps[HEAT](level)[..., :3].astype(np.float32) * 255
        opacity = (strength * level)[..., None]
        drawn[band] = ((1 - opacity) * as_channels(image[band], 3) + opacity * colours).round()
    return drawn
