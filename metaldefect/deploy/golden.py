"""Golden frames: images whose scores are known, which tell a runtime whether it computes what was exported.

Up to half are validation images, as the detector sees them; `real_golden_frames: false` leaves them out where
their licence forbids passing them on. The others are procedural, of assorted sizes and with one or three
channels, so they test the graph's preprocessing too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from metaldefect.deploy.bundle import GOLDEN, GREY_RANGE, Metadata
from metaldefect.deploy.frames import as_frame
from metaldefect.errors import UserError
from metaldefect.image_files import Levels
from metaldefect.images import ImageSize, height_and_width
from metaldefect.inspection.layout import GOOD
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.images import generate_anomalous_image, generate_normal_image, keyed_generator

GOLDEN_FRAMES = 16
COLOUR_INTERVAL = 4  # one in four frames has three channels
# Height and width as shares of the model's size
SHAPES = ((1.0, 1.0), (1.0, 1.5), (0.75, 1.0), (2.0, 1.25))
TINT = (1.0, 0.92, 0.8)  # warm light

Frame = NDArray[Any]


def draw_golden_frames(size: ImageSize, levels: Levels | None, count: int = GOLDEN_FRAMES) -> list[Frame]:
    """Draw normal metal and anomalies.

    Args:
        size: the model's, px.
        levels: of 16-bit frames; None: 8-bit ones.
        count: how many.

    Returns:
        `uint8 [H, W, 1]` or `[H, W, 3]`; with `levels` the grey ones are `uint16`. PNG files keep them all.
    """
    kinds = (GOOD, *ANOMALIES)
    return [draw(kinds[k // len(SHAPES) % len(kinds)], k, size, levels) for k in range(count)]


def draw(kind: str, index: int, size: ImageSize, levels: Levels | None) -> Frame:
    """Draw one golden frame."""
    rng = keyed_generator(0, "golden", kind, index)
    shares = SHAPES[index % len(SHAPES)]
    height, width = (round(share * side) for share, side in zip(shares, height_and_width(size), strict=True))
    side = max(height, width)
    square = (
        generate_normal_image(rng, side) if kind == GOOD else generate_anomalous_image(kind, rng, side)[0]
    )
    top, left = (side - height) // 2, (side - width) // 2
    grey = square[top : top + height, left : left + width, None]
    # Fewer levels than 255 cannot hold an 8-bit colour frame, and PNG files hold no deeper one
    holds_colour = levels is None or levels.high - levels.low >= GREY_RANGE
    if index % COLOUR_INTERVAL == COLOUR_INTERVAL - 1 and holds_colour:
        return np.rint(grey * np.array(TINT)).astype(np.uint8)
    if levels is not None:
        # Between two grey levels lie many levels of the camera: use them, but round to the same grey
        fine = grey + rng.uniform(-0.4, 0.4, grey.shape)
        scaled = levels.low + fine * (levels.high - levels.low) / 255.0
        return np.rint(np.clip(scaled, levels.low, levels.high)).astype(np.uint16)
    return grey


def choose_real_frames(usable: ArrayLike, count: int) -> list[int]:
    """Choose images evenly spread over those that are usable.

    Args:
        usable: `bool [N]`, per image.
        count: how many; fewer where fewer are usable.

    Returns:
        Numbers of the images, ascending.
    """
    numbers = np.flatnonzero(np.asarray(usable))
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return [int(number) for number in numbers[places]]


def write_golden_frames(folder: Path, frames: Sequence[Frame], real: Sequence[Frame] = ()) -> list[str]:
    """Write frames as PNG into the bundle's `golden/`.

    Args:
        folder: the bundle.
        frames: procedural ones, `[H, W, 1]` or `[H, W, 3]`.
        real: validation images of the same form.

    Returns:
        File names, `00.png` and so on; those of `real` come last and end in `_real.png`.
    """
    (folder / GOLDEN).mkdir()
    names = [f"{index:02d}.png" for index in range(len(frames))]
    names += [f"{index:02d}_real.png" for index in range(len(frames), len(frames) + len(real))]
    for name, frame in zip(names, [*frames, *real], strict=True):
        pixels = frame[..., 0] if frame.shape[2] == 1 else frame
        Image.fromarray(pixels).save(folder / GOLDEN / name)
    return names


def read_golden_frames(folder: Path, metadata: Metadata) -> list[Frame]:
    """Read the golden frames of a bundle, `[H, W, C]` each, as its graphs take them."""
    frames = []
    for item in metadata.golden:
        with Image.open(folder / GOLDEN / item.file) as image:
            pixels = np.asarray(image)
        frames.append(as_frame(pixels, metadata.input))
    return frames


def check_golden_scores(folder: Path, metadata: Metadata, precision: str, scores: list[float]) -> None:
    """Compare the golden frames' scores with the expected ones.

    Raises:
        UserError: one differs by more than the tolerance, or falls on the other side of the threshold
            although the expected score is clear of it.
    """
    stated = metadata.precisions[precision]
    for item, score in zip(metadata.golden, scores, strict=True):
        expected = item.scores[precision]
        near = stated.tolerance.allows(stated.threshold, expected)
        changed = (score > stated.threshold) != (expected > stated.threshold) and not near
        if not stated.tolerance.allows(score, expected) or changed or not np.isfinite(score):
            raise UserError(
                f"{folder} fails its self-test: {GOLDEN}/{item.file} scores {score:.6g} in {precision},"
                f" expected {expected:.6g}. This machine or this OpenVINO computes something else: do not use"
                " it for decisions; try precision fp32, or export the detector on this machine"
            )
