"""The runtime: load an exported graph with OpenVINO and score frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import openvino
from numpy.typing import NDArray

from metaldefect.artifacts import read_json
from metaldefect.deploy.export import METADATA, graph_file
from metaldefect.deploy.graph import INPUT, OUTPUTS
from metaldefect.efficientad.anomaly_map import map_to_size
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.images import U8, resize

HEAT = "inferno"


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
    """A compiled detector that scores one frame at a time; create it with `Detector.load`."""

    def __init__(
        self,
        compiled: Any,
        image_size: int,
        threshold: float,
        precision: str,
        levels: Levels | None = None,
    ) -> None:
        self.request = compiled.create_infer_request()
        self.levels = levels  # how files with more than 8 bits are read
        self.image_size, self.threshold, self.precision = image_size, threshold, precision

    @classmethod
    def load(cls, folder: Path | str, precision: str = "fp16") -> Detector:
        """Load `fp32`, `fp16` or `int8` from a folder of exported files.

        `fp32` computes in float32; the others compute in the machine's fastest precision.

        Raises:
            UserError: the folder holds no export, or the precision is unknown or missing from it.
        """
        folder = Path(folder)
        metadata = read_json(folder / METADATA)
        path = folder / graph_file(precision)
        if not path.is_file() or precision not in metadata["thresholds"]:
            raise UserError(f"{folder} has no {precision} graph, only {metadata['precisions']}")
        compiled = compile_graph(path, precision)
        stored = metadata.get("levels")  # bundles from before 16-bit images have none
        threshold = float(metadata["thresholds"][precision])
        return cls(compiled, int(metadata["image_size"]), threshold, precision, stored and Levels(**stored))

    def infer(self, image: U8) -> Detection:
        """Score a grey image `uint8 [H, W]` of any size.

        Raises:
            ValueError: the image is not grey or not 8-bit.
        """
        if image.ndim != 2 or image.dtype != np.uint8:
            raise ValueError(f"expected uint8 [H, W], got {image.dtype} {list(image.shape)}")
        score, anomaly_map = self.detect(resize(image, self.image_size))
        full_map = map_to_size(anomaly_map, (image.shape[0], image.shape[1]))
        return Detection(score, score > self.threshold, full_map)

    def detect(self, frame: U8) -> tuple[float, NDArray[np.float32]]:
        """Return score and map `float32 [S, S]` of a frame `uint8 [S, S]` that has the graph's size."""
        results = self.request.infer({INPUT: np.ascontiguousarray(frame[None, :, :, None])})
        anomaly_map, score = (results[name] for name in OUTPUTS)
        return float(score[0]), np.array(anomaly_map[0, 0])


def compile_graph(path: Path, precision: str) -> Any:
    """Compile a graph for one camera, with the lowest latency per frame."""
    options = {"PERFORMANCE_HINT": "LATENCY"}
    if precision == "fp32":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    return openvino.Core().compile_model(path, "CPU", options)


def overlay(image: U8, anomaly_map: NDArray[np.float32], threshold: float, strength: float = 0.55) -> U8:
    """Draw the heat map over the image; returns `uint8 [H, W, 3]`.

    Colour and opacity grow from nothing at 0 to full at twice the threshold, so overlays of different
    images are comparable.

    Args:
        image: grey `uint8 [H, W]`.
        anomaly_map: `float32 [H, W]`.
        threshold: the detector's threshold.
        strength: largest opacity, in [0, 1].

    Raises:
        UserError: image and map differ in size.
    """
    if image.shape != anomaly_map.shape:
        raise UserError(f"image is {image.shape}, anomaly map {anomaly_map.shape}")
    level = np.clip(anomaly_map / max(2 * threshold, 1e-6), 0, 1)
    colours = matplotlib.colormaps[HEAT](level)[..., :3] * 255
    opacity = (strength * level)[..., None]
    return ((1 - opacity) * image[..., None] + opacity * colours).round().astype(np.uint8)
