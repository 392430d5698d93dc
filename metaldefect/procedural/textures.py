"""Draw bare metal from noise: the defect-free surfaces under the procedural defects.

All lengths are in reference pixels, those of a 200 x 200 image, and scale with the image size. Metal drawn
at 128, 200 and 256 pixels therefore looks alike after resizing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from metaldefect.errors import UserError

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Painter = Callable[[np.random.Generator, F32], tuple[F32, Mask]]

Finish = Literal["smooth", "rough", "bright", "grained"]
FINISHES: tuple[Finish, ...] = get_args(Finish)

REFERENCE_SIZE = 200
SMALLEST_SIZE = 16


def gaussian_field(
    rng: np.random.Generator, size: int, along: float, across: float | None = None, angle: float = 0.0
) -> F32:
    """Draw a Gaussian random field with zero mean and unit deviation, `float32 [size, size]`.

    Filters white noise in the frequency domain, so the cost does not depend on correlation length or
    direction. The field is periodic, but defects smaller than the image do not reveal that.

    Args:
        along: correlation length (standard deviation of the blur) along the grain, in reference pixels.
        across: the same across the grain; None means `along`.
        angle: direction of the grain in degrees, 0 along the rows, 90 down the columns.
    """
    scale = size / REFERENCE_SIZE
    rows, columns = fft.fftfreq(size).astype(np.float32)[:, None], fft.rfftfreq(size).astype(np.float32)[None]
    radians = np.deg2rad(angle)
    u = columns * np.float32(np.cos(radians)) + rows * np.float32(np.sin(radians))
    v = rows * np.float32(np.cos(radians)) - columns * np.float32(np.sin(radians))
    lengths = np.float32(along * scale), np.float32((along if across is None else across) * scale)
    transfer = np.exp(np.float32(-2 * np.pi**2) * ((u * lengths[0]) ** 2 + (v * lengths[1]) ** 2))
    transfer[0, 0] = 0.0
    spectrum = fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * transfer
    field = fft.irfft2(spectrum, s=(size, size))
    return (field / field.std()).astype(np.float32)


def blur(image: F32, radius: float) -> F32:
    """Blur `float32 [S, S]` with a Gaussian of `radius` reference pixels."""
    return ndimage.gaussian_filter(image, radius * image.shape[0] / REFERENCE_SIZE, truncate=3.0)


def soft_step(level: F32, softness: float) -> F32:
    """Turn a level function into coverage in (0, 1), 0.5 where `level` is zero."""
    return 1.0 / (1.0 + np.exp(np.clip(-level / softness, -30.0, 30.0)))


def grid(size: int) -> tuple[F32, F32]:
    """Row and column coordinates of pixel centres in reference pixels, `float32 [S, 1]` and `[1, S]`."""
    positions = ((np.arange(size, dtype=np.float32) + 0.5) * (REFERENCE_SIZE / size)).astype(np.float32)
    return positions[:, None], positions[None, :]


def shading(rng: np.random.Generator, size: int, strength: float) -> F32:
    """Draw uneven lighting: a ramp in a random direction that ends `strength` grey levels darker."""
    rows, columns = grid(size)
    direction = rng.uniform(0, 2 * np.pi)
    ramp = (rows - 100) * np.float32(np.sin(direction)) + (columns - 100) * np.float32(np.cos(direction))
    progress = np.clip(ramp / 200 + 0.5, 0, 1)
    return (strength * (0.4 - progress**2)).astype(np.float32)


def draw_surface(finish: Finish, rng: np.random.Generator, size: int) -> F32:
    """Draw bare metal with a finish; returns unclipped grey levels, `float32 [size, size]`.

    The finishes imitate the metal in NEU-DET's photographs: `smooth`, dull cold-rolled sheet, carries
    inclusions and scratches; `rough`, bright and speckled, carries crazing and patches; `bright`, unevenly
    lit, carries pitted surfaces; `grained`, mid-grey, carries rolled-in scale. Base level and contrast vary
    as they do from coil to coil.
    """
    if finish == "smooth":
        surface = rng.uniform(80, 122) + shading(rng, size, rng.uniform(4, 26))
        surface = surface + rng.uniform(0.6, 1.8) * gaussian_field(rng, size, 60, 1.6, 90)
        surface += rng.uniform(2.0, 4.5) * gaussian_field(rng, size, 45, 16, 90)
        surface += rng.uniform(0.8, 2.2) * gaussian_field(rng, size, 7, 5)
        return surface + 2.6 * gaussian_field(rng, size, 0.9, 0.6, 90)
    if finish == "rough":
        tilt = rng.normal(0, 7)
        surface = rng.uniform(118, 168) + shading(rng, size, rng.uniform(0, 30))
        surface = surface + rng.uniform(16, 20) * gaussian_field(rng, size, 0.9, 0.65, -tilt)
        surface += 9 * gaussian_field(rng, size, 4.5, 0.8, tilt)
        surface += 6 * gaussian_field(rng, size, 1.4, 2.6, tilt)
        surface += 8 * gaussian_field(rng, size, 70, 7, 90)
        return surface + 6 * gaussian_field(rng, size, 20)
    if finish == "bright":
        surface = rng.uniform(172, 214) + shading(rng, size, rng.uniform(15, 75))
        surface = surface + 2.0 * gaussian_field(rng, size, 40, 1.6, 90)
        surface += 4.5 * gaussian_field(rng, size, 22)
        return surface + 4.0 * gaussian_field(rng, size, 0.8)
    if finish == "grained":
        tilt = rng.normal(10, 6)
        surface = rng.uniform(108, 146) + shading(rng, size, rng.uniform(0, 20))
        surface = surface + 7.5 * gaussian_field(rng, size, 5, 0.9, -tilt)
        surface += 5.0 * gaussian_field(rng, size, 1.1, 0.6, tilt)
        surface += 6.0 * gaussian_field(rng, size, 50, 16, 90)
        return surface + 5.0 * gaussian_field(rng, size, 14, 8)
    raise UserError(f"unknown finish {finish!r}: choose one of {', '.join(FINISHES)}")


def to_grey(surface: F32) -> U8:
    """Round and clip grey levels to `uint8`."""
    return np.clip(np.rint(surface), 0, 255).astype(np.uint8)
