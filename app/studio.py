"""What the demo does, independent of its page: encode, decode, inpaint, generate, inspect."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.arguments import check_finished
from metaldefect.deploy.bundle import PRECISIONS, graph_file
from metaldefect.deploy.runtime import Detection, Detector, overlay
from metaldefect.errors import UserError
from metaldefect.figures import mask_overlay
from metaldefect.image_files import Levels
from metaldefect.images import U8, Channels, as_channels, resize
from metaldefect.ingest.levels import levels_of_model
from metaldefect.maskgit.sampling_config import SamplingConfig
from metaldefect.random_numbers import image_generator
from metaldefect.rerun import repro_command
from metaldefect.synthesis.inpainting import inpaint, visible_change
from metaldefect.synthesis.painter import Painter, load_painter
from metaldefect.synthesis.slant import slant, turned
from pipeline.champion import CHALLENGER, CHAMPION

Mask = NDArray[np.bool_]

NEEDED = ("models/vq", "models/maskgit", "models/openvino")
UNKNOWN = 128  # grey level of a token that is not drawn yet


@dataclass(frozen=True)
class Settings:
    """How to draw: guidance, temperature and steps as in `SamplingConfig`, feather as in `inpaint`."""

    seed: int = 0
    guidance: float = 2.0
    temperature: float = 0.7
    steps: int = 16
    feather: float = 8.0

    def sampling(self) -> SamplingConfig:
        """The sampler's settings; raises UserError for a number out of range."""
        numbers = {"steps": self.steps, "guidance": self.guidance, "temperature": self.temperature}
        return SamplingConfig.parse(numbers, "the drawing's settings")


class Drawing(NamedTuple):
    """A defect drawn into an image."""

    image: U8  # [H, W], or in colour [H, W, 3]
    changed: Mask  # [H, W], where the image visibly changed: the exact mask
    steps: list[U8]  # squares of the models' size, the tokens decoded while they are drawn


class Verdict(NamedTuple):
    """What the detector says about an image."""

    detection: Detection
    heat_map: U8  # [H, W, 3]
    milliseconds: float


@dataclass(frozen=True)
class Studio:
    """The models of the last pipeline run in `root`; `others` are folders of other runs, to compare with.

    Raises:
        UserError: a model is missing; the message says which command makes it.
    """

    root: Path
    others: tuple[Path, ...] = field(default=())

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED if not (self.root / name).is_dir()]
        if missing:
            raise UserError(f"no {', '.join(missing)} here yet: run `{repro_command(self.root)}` first")
        check_finished(self.others)

    @cached_property
    def painter(self) -> Painter:
        return load_painter(self.root / "models/vq", self.root / "models/maskgit")

    @property
    def channels(self) -> Channels:
        """Of the images that the models draw: 1, or 3 for colours."""
        return self.painter.channels

    def seen(self, image: U8) -> U8:
        """An image of any size as the models take it."""
        return resize(as_channels(image, self.channels), self.painter.image_size)

    @cached_property
    def detector(self) -> Detector:
        return Detector.load(self.root / "models/openvino", "fp16")

    @property
    def levels(self) -> Levels | None:
        """How files with more than 8 bits are read: as the training images of detector or tokenizer were."""
        return self.detector.levels or levels_of_model(self.root / "models/vq")

    @cached_property
    def detectors(self) -> Mapping[str, tuple[Path, str]]:
        """Folder and precision of each detector to compare, by the name that the page shows."""
        own = {"this run": self.root / "models/openvino"}
        # By their links: after a promotion, the page follows
        links = {link.name: self.root / link for link in (CHAMPION, CHALLENGER)}
        own |= {name: link for name, link in links.items() if link.is_dir()}
        others = {name: run / "models/openvino" for name, run in distinct_names(self.others, own).items()}
        return {
            f"{name}, {precision.upper()}": (folder, precision)
            for name, folder in (own | others).items()
            for precision in PRECISIONS
            if (folder / graph_file(precision)).is_file()
        }

    def examples(self, limit: int = 6) -> list[Path]:
        """Up to `limit` defect-free images to start from, spread evenly over the detector's test normals."""
        found = sorted((self.root / "data/merged/inspection/test/good").glob("*.png"))
        return found[:: max(1, len(found) // limit)][:limit]


def distinct_names(folders: Sequence[Path], taken: Container[str]) -> dict[str, Path]:
    """The folders by the shortest end of their path that is neither taken nor shared: `run`, `b/run`."""
    found = {}
    paths = list(dict.fromkeys(folder.resolve() for folder in folders))
    for path in paths:
        for length in range(1, len(path.parts) + 1):
            end = path.parts[-length:]
            name = str(Path(*end))
            if name not in taken and sum(other.parts[-length:] == end for other in paths) == 1:
                break
        found[name] = path
    return found


def encode_to_tokens(studio: Studio, image: U8) -> Tensor:
    """Encode an image of any size to MaskGIT tokens `int64 [grid, grid]`, each in [0, vocabulary)."""
    return studio.painter.encode(studio.seen(image)[None])[0]


def decode_from_tokens(studio: Studio, tokens: Tensor, light: U8) -> U8:
    """Decode tokens `int64 [grid, grid]` to an image `uint8 [size, size]`, or in colour `[size, size, 3]`.

    Args:
        studio: the models.
        tokens: each in [0, vocabulary).
        light: the image whose light the result gets, usually the encoded one.

    Raises:
        UserError: the tokens have another shape, or one is outside the vocabulary.
    """
    grid, size = studio.painter.maskgit.config.grid, len(studio.painter.vocabulary.codes)
    if tuple(tokens.shape) != (grid, grid):
        raise UserError(f"tokens have the shape {list(tokens.shape)}, expected [{grid}, {grid}]")
    if int(tokens.min()) < 0 or int(tokens.max()) >= size:
        raise UserError(f"tokens lie in [{int(tokens.min())}, {int(tokens.max())}], expected [0, {size})")
    light_field = studio.painter.field_of(studio.seen(light)[None])
    return studio.painter.decode(tokens[None], light_field)[0]


def inpaint_image(
    studio: Studio, image: U8, mask: Mask, label: str, settings: Settings, history: list[Tensor] | None = None
) -> U8:
    """Draw a defect of class `label` under the mask; the result has the models' channels.

    Args:
        studio: the models.
        image: `uint8 [H, W]` or `[H, W, 3]`.
        mask: `bool [H, W]`.
        label: class of the defect.
        settings: how to draw.
        history: receives the token grid `int64 [1, grid, grid]` after each step, of the image turned by
            `slant(mask)`.

    Raises:
        UserError: the class is unknown; the mask has another size, is empty or covers the whole image; or a
            number is out of range.
    """
    generators = [image_generator(settings.seed, label, 0)]
    return inpaint(
        studio.painter,
        [as_channels(image, studio.channels)],
        [mask],
        [label],
        settings.sampling(),
        generators,
        settings.feather,
        history,
    )[0].image


def draw_defect(studio: Studio, image: U8, mask: Mask, label: str, settings: Settings) -> Drawing:
    """`inpaint_image`, with the exact mask of what changed and the steps of drawing."""
    history: list[Tensor] = []
    result = inpaint_image(studio, image, mask, label, settings, history)
    angle = slant(mask)
    frames = unmasking_frames(studio, turned(image, angle), history)
    return Drawing(result, exact_mask(studio, image, result), [turned(frame, -angle) for frame in frames])


def exact_mask(studio: Studio, image: U8, result: U8) -> Mask:
    """Where `inpaint_image` visibly changed an image, `bool [H, W]`."""
    return visible_change(as_channels(image, studio.channels), result)


def unmasking_frames(studio: Studio, image: U8, history: list[Tensor]) -> list[U8]:
    """The tokens after each step as images of the models' size; tokens not drawn yet are grey."""
    painter = studio.painter
    if not history:
        return []
    grids = torch.cat(history)
    unknown = grids == painter.maskgit.config.mask_id
    light = painter.field_of(studio.seen(image)[None])
    decoded = painter.decode(grids.masked_fill(unknown, 0), light.expand(len(grids), *light.shape[1:]))
    side = painter.image_size // painter.maskgit.config.grid
    hidden = unknown.numpy().repeat(side, axis=1).repeat(side, axis=2)
    return list(np.where(hidden if decoded.ndim == 3 else hidden[..., None], np.uint8(UNKNOWN), decoded))


def generate_images(studio: Studio, label: str, count: int, settings: Settings) -> U8:
    """Draw `count` whole images of a class, `uint8 [count, size, size]`, or in colour with three channels.

    Raises:
        UserError: the class is unknown, or a number is out of range.
    """
    labels = torch.full((count,), studio.painter.label(label))
    return studio.painter.sample(labels, range(count), settings.sampling(), settings.seed)


def visualize_mask_on_image(image: U8, mask: Mask) -> U8:
    """An image `uint8 [H, W]` or `[H, W, 3]` with the mask `bool [H, W]` tinted red, `uint8 [H, W, 3]`.

    Raises:
        UserError: the mask has another size.
    """
    if image.shape[:2] != mask.shape:
        raise UserError(f"the mask has shape {mask.shape}, the image {image.shape[:2]}")
    return mask_overlay(image, mask)


def inspect_image(detector: Detector, image: U8) -> Verdict:
    """The verdict on an image `uint8 [H, W]` or `[H, W, 3]`, its heat map, and the time that it took."""
    start = time.perf_counter()
    detection = detector.predict(image)
    milliseconds = 1000 * (time.perf_counter() - start)
    return Verdict(detection, overlay(image, detection.anomaly_map, detector.threshold), milliseconds)
