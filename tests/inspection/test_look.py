"""Which channels and which size suit the training images."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from metaldefect.inspection.look import look_for_channels, look_for_size
from metaldefect.inspection.provider import InspectionImage, InspectionImages
from metaldefect.procedural.images import generate_normal_image


def images(*arrays: np.ndarray) -> InspectionImages:
    load = [
        partial(InspectionImage, array, None, "good", f"good/{k}", str(k)) for k, array in enumerate(arrays)
    ]
    return InspectionImages(load, ["good"] * len(load))


def grey(seed: int = 0) -> np.ndarray:
    return generate_normal_image(seed, 96)[..., None].repeat(3, axis=2)


def noisy(seed: int) -> np.ndarray:
    """A grey scene as a colour camera with noise in each channel writes it into a JPEG file."""
    levels = grey(seed) + np.random.default_rng(seed).normal(0, 4, (96, 96, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return np.asarray(Image.open(buffer))


def copper(seed: int) -> np.ndarray:
    return np.rint(grey(seed) * (1.0, 0.8, 0.65)).astype(np.uint8)


def test_really_coloured_images_are_trained_on_in_colour() -> None:
    assert look_for_channels(images(copper(0), copper(1), grey(2))) == (
        3,
        "channels: 3, 2 of 3 training images looked at are coloured; --channels 1 trains on grey",
    )


@pytest.mark.parametrize("make", [grey, noisy])
def test_grey_images_in_colour_files_are_trained_on_in_grey(make: object) -> None:
    assert callable(make)
    assert look_for_channels(images(make(0), make(1))) == (
        1,
        "channels: 1, 0 of 2 training images looked at are coloured",
    )


def test_a_coloured_mark_on_grey_metal_counts() -> None:
    marked = grey(0)
    marked[10:25, 10:25] = (200, 60, 60)  # 2 % of the image
    assert look_for_channels(images(marked))[0] == 3
    speck = grey(0)
    speck[10:14, 10:14] = (200, 60, 60)
    assert look_for_channels(images(speck))[0] == 1


def empty(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), np.uint8)


def test_images_of_one_shape_keep_it() -> None:
    size, why = look_for_size(images(empty(600, 800), empty(300, 400)))
    assert size == (224, 296)
    assert why == "image size: 224x296 keeps the shape of images of 600x800 px"
    assert look_for_size(images(empty(1250, 500)))[0] == (408, 160)
    assert look_for_size(images(empty(100, 800)))[0] == (128, 1024), "no side below the networks' limit"


def test_squares_and_mixed_shapes_become_squares() -> None:
    assert look_for_size(images(empty(700, 700))) == (256, "")
    assert look_for_size(images(empty(600, 700))) == (256, "")
    assert look_for_size(images(empty(300, 400), empty(300, 600))) == (256, "")
