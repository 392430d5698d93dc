"""The demo's functions, independent of its page: encode, decode, inpaint and detect."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metaldefect.deploy.runtime import Detection, Detector, overlay
from metaldefect.errors import UserError
from metaldefect.images import U8, read_grey, resize
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.random_numbers import image_generator
from metaldefect.synthesis.inpainting import inpaint
from metaldefect.synthesis.painter import Painter, load_painter

Mask = NDArray[np.bool_]

MASK_COLOUR = (255, 30, 30)
MASK_OPACITY = 0.45
NEEDED = ("models/vq", "models/maskgit", "models/openvino")


@dataclass(frozen=True)
class Studio:
    """The models of the last pipeline run in `root`.

    Raises:
        UserError: a model is missing; the message says which command makes it.
    """

    root: Path

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED if not (self.root / name).is_dir()]
        if missing:
            raise UserError(f"no {', '.join(missing)} here yet: run `make repro` first")

    @cached_property
    def painter(self) -> Painter:
        return load_painter(self.root / "models/vq", self.root / "models/maskgit")

    @cached_property
    def detector(self) -> Detector:
        return Detector.load(self.root / "models/openvino", "fp16")

    def examples(self, limit: int = 12) -> list[Path]:
        """Up to `limit` defect-free images to start from, spread evenly over the detector's test normals."""
        found = sorted((self.root / "data/merged/inspection/test/good").glob("*.png"))
        return found[:: max(1, len(found) // limit)][:limit]


def encode_to_tokens(studio: Studio, image: U8) -> Tensor:
    """Encode a grey image `uint8 [H, W]` to MaskGIT tokens `int64 [grid, grid]`, each in [0, vocabulary)."""
    return studio.painter.encode(resize(image, studio.painter.image_size)[None])[0]


def decode_from_tokens(studio: Studio, tokens: Tensor, light: U8) -> U8:
    """Decode tokens `int64 [grid, grid]` to a grey image `uint8 [size, size]`.

    Args:
        studio: the models.
        tokens: each in [0, vocabulary).
        light: the image whose light the result gets, grey `uint8 [H, W]`: usually the encoded one.

    Raises:
        ValueError: a token is outside the vocabulary.
    """
    size = len(studio.painter.vocabulary.codes)
    if int(tokens.min()) < 0 or int(tokens.max()) >= size:
        raise ValueError(f"tokens lie in [{int(tokens.min())}, {int(tokens.max())}], expected [0, {size})")
    field = studio.painter.field_of(resize(light, studio.painter.image_size)[None])
    return studio.painter.decode(tokens[None], field)[0]


def inpaint_image(
    studio: Studio,
    image: U8,
    mask: Mask,
    label: str,
    *,
    seed: int = 0,
    guidance: float = 1.0,
    temperature: float = 1.0,
    steps: int = 16,
    feather: float = 8.0,
) -> U8:
    """Draw a defect of class `label` under the mask; input and output are grey, `uint8 [H, W]`.

    Raises:
        UserError: the class is unknown; the mask has another size, is empty or covers the whole image; or a
            number is out of range.
    """
    config = SamplingConfig(steps=steps, guidance=guidance, temperature=temperature)
    generators = [image_generator(seed, label, 0)]
    return inpaint(studio.painter, [image], [mask], [label], config, generators, feather)[0].image


def visualize_mask_on_image(image: U8, mask: Mask) -> U8:
    """The image `uint8 [H, W]` with the mask `bool [H, W]` tinted red, as `uint8 [H, W, 3]`."""
    if image.shape != mask.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the image {image.shape}")
    colour = np.repeat(image[..., None], 3, axis=2).astype(np.float32)
    colour[mask] = (1 - MASK_OPACITY) * colour[mask] + MASK_OPACITY * np.array(MASK_COLOUR, np.float32)
    return colour.round().astype(np.uint8)


def heat_map(studio: Studio, image: U8) -> tuple[U8, Detection]:
    """The image under the detector's heat map, `uint8 [H, W, 3]`, and the detection."""
    detection = studio.detector.predict(image)
    return overlay(image, detection.anomaly_map, studio.detector.threshold), detection


def read_square(path: Path, size: int) -> U8:
    """The centre square of an image file, resized to `uint8 [size, size]`, the page's working size."""
    grey = read_grey(path)
    side = min(grey.shape)
    top, left = ((length - side) // 2 for length in grey.shape)
    return resize(grey[top : top + side, left : left + side], size)
