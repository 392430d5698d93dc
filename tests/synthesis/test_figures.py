"""Pictures of drawn images."""

from __future__ import annotations

import numpy as np

from metaldefect.synthesis.figures import busiest_crop


def test_a_crop_shows_the_busiest_part_of_an_image() -> None:
    image = np.full((256, 200), 100, np.uint8)
    image[150:190, 140:180] = 20
    crop = busiest_crop(image)
    assert crop.shape == (128, 100)
    assert (crop == 20).sum() == 40 * 40
